"""A model and a data set as small as they can be and still have everything the trainer meets."""

import copy as copying
import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scanmax import cli
from scanmax.train.build import build
from scanmax.train.checkpoint import Checkpointer
from scanmax.train.config import (
    Config,
    EmaConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    check_config,
    resolve_durations,
)


class ToyModel(nn.Module):
    """Patches, a norm, an mlp with dropout, a head: annotated as scanmax.models annotates."""

    num_classes: int = 4
    width: int = 16
    dropout_rate: float = 0.0
    batch_norm: bool = False
    distilled: bool = False
    remat: bool = False
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        def weight(name, shape, axes):
            init = nn.with_logical_partitioning(nn.initializers.normal(0.3), axes)
            return self.param(name, init, shape).astype(self.dtype)

        x = x.reshape(x.shape[0], -1).astype(self.dtype)
        x = x @ weight("stem", (x.shape[-1], self.width), ("conv_in", "embed"))
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        up = weight("up", (self.width, 4 * self.width), ("embed", "mlp"))
        down = weight("down", (4 * self.width, self.width), ("mlp", "embed"))

        def block(x, up, down):
            return x + jax.nn.gelu(x @ up) @ down

        x = (jax.checkpoint(block) if self.remat else block)(x, up, down)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        # Without annotation: split by the rule for the largest divisible axis.
        plain = self.param("plain", nn.initializers.normal(0.3), (self.width, 3))
        x = x + jnp.pad(x @ plain.astype(self.dtype), ((0, 0), (0, self.width - 3)))
        if not self.num_classes:
            return x
        bias_init = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("classes",))
        bias = self.param("head_bias", bias_init, (self.num_classes,))
        logits = x @ weight("head", (self.width, self.num_classes), ("embed", "classes")) + bias
        return (logits, -logits) if self.distilled and train else logits


class ToyData:
    """Images [B, 4, 4, 1] of four separable classes; batch content is a function of the step."""

    kind = "image"
    num_classes = 4
    class_names = ("a", "b", "c", "d")

    def __init__(self, batch_size=16, num_train=64, num_eval=21, seed=0, poison=None):
        self.batch_size, self.num_train, self.num_eval, self.seed = (
            batch_size,
            num_train,
            num_eval,
            seed,
        )
        self.poison = poison
        spec = {
            "image": jax.ShapeDtypeStruct((batch_size, 4, 4, 1), np.float32),
            "label": jax.ShapeDtypeStruct((batch_size,), np.int32),
            "mask": jax.ShapeDtypeStruct((batch_size,), np.bool_),
        }
        self.train_spec = self.eval_spec = spec

    def to_display(self, images):
        return np.clip(np.nan_to_num(images) * 40 + 100, 0, 255).astype(np.uint8)

    def make(self, seed, count):
        rng = np.random.default_rng([self.seed, seed])
        label = rng.integers(0, 4, count).astype(np.int32)
        image = rng.normal(size=(count, 4, 4, 1)).astype(np.float32)
        image[np.arange(count), label, 0, 0] += 3
        return {"image": image, "label": label, "mask": np.ones(count, bool)}

    def train_iterator(self, start_step=0):
        step = start_step
        while True:
            batch = self.make(step, self.batch_size)
            step += 1
            if step == self.poison:
                batch["image"][:] = np.inf
            yield batch

    def eval_batches(self):
        return self.padded(self.make(10_000, self.num_eval))

    def train_eval_batches(self):
        return self.padded(self.make(20_000, self.num_train))

    def padded(self, whole):
        for start in range(0, len(whole["label"]), self.batch_size):
            part = {name: rows[start : start + self.batch_size] for name, rows in whole.items()}
            short = self.batch_size - len(part["label"])
            padded = {
                name: np.pad(rows, [(0, short)] + [(0, 0)] * (rows.ndim - 1))
                for name, rows in part.items()
            }
            # Padding must not count, whatever it holds.
            padded["image"][~padded["mask"]] = np.nan
            yield padded


def toy_config(**fields) -> Config:
    """A config for ToyModel and ToyData: ten steps of AdamW with everything on."""
    defaults = {
        "model": ModelConfig(name="toy"),
        "objective": ObjectiveConfig(label_smoothing=0.1),
        "optim": OptimConfig(lr=0.01, weight_decay=0.1, clip_norm=1.0),
        "ema": EmaConfig(decay=0.9),
        "batch_size": 16,
        "duration": "10 steps",
        "log_every": "2 steps",
        "eval_every": "5 steps",
    }
    config = Config(**{**defaults, **fields})
    config.sharding.min_size = 16
    config.checkpoint.every = "2 steps"
    # Drawing takes longer than these ten steps.
    config.log.report = False
    return config


# Everything that a state can hold: batch statistics, dropout's random stream.
MODEL = ToyModel(batch_norm=True, dropout_rate=0.2)


def shared_build(config, *, data=None, pipeline=None, model=None, devices=None):
    """`build`, whose compiled steps serve every run that is planned alike.

    Dozens of tests train the same few steps, or go on with them; a run has no state of its own, so
    that tracing and compiling them once shows the same. Data are shared that are always the same.
    """
    is_bundled = pipeline is None and data is None and config.data.name in ("synthetic", "digits")
    if not (is_bundled or isinstance(pipeline, ToyData)):
        return build(config, data=data, pipeline=pipeline, model=model, devices=devices)
    check_config(config)
    planned = cli.to_dict(config)
    for name in ("log", "log_every", "eval_every", "prefetch"):
        del planned[name]
    for name in ("every", "keep"):
        del planned["checkpoint"][name]
    del planned["optim"]["max_skips"]
    names = ("kind", "num_classes", "labelled", "num_train", "train_spec", "eval_spec")
    seen = [getattr(pipeline, name, None) for name in names]
    key = json.dumps(planned, sort_keys=True), repr((seen, devices)), type(model), repr(model)
    if key not in _BUILT:
        # Of a copy: what a test does to its config later is not what was planned.
        own = copying.deepcopy(config)
        _BUILT[key] = build(own, pipeline=pipeline, model=model, devices=devices)
    run = _BUILT[key]
    pipeline = run.pipeline if pipeline is None else pipeline
    durations = resolve_durations(config, pipeline.num_train)
    return dataclasses.replace(run, config=config, pipeline=pipeline, durations=durations)


_BUILT = {}


def last_state(workdir, config, devices=None):
    """The newest checkpoint of a run, and what was saved beside it."""
    run = shared_build(config, pipeline=ToyData(), model=MODEL, devices=devices)
    with Checkpointer(workdir / "checkpoints", config.checkpoint) as checkpointer:
        state, meta = checkpointer.restore(run.shapes, run.shardings)
    return jax.device_get(state), meta


def rows(workdir, split="train"):
    """Step -> loss of the rows that a run wrote."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in lines if row["split"] == split}


def copy(undisturbed, tmp_path, last=10):
    """The undisturbed run's folder as it was after its checkpoint `last`."""
    shutil.copytree(undisturbed[0], tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if int(path.name) > last:
            shutil.rmtree(path)
    return tmp_path / "run"
