"""What ways of learning cost: a step of the trainer with each beside one without.

`python -m benchmarks learning` measures all; `speedup` is the time of the step without over that
with it, so that its inverse is the overhead.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Contender, Row, benchmark
from scanmax.configs import digits_distill
from scanmax.data.config import DataConfig
from scanmax.models import create_model
from scanmax.train.config import Config, ModelConfig, ObjectiveConfig, OptimConfig

CLASSES, WIDTH, BLOCKS = 16, 192, 4
MIXES = {
    "mixup": {},
    "cutmix": {},
    "mixup_cutmix": {},
    "cutout": {},
    "gridmix": {},
    "maskmix": {"patch": 8},
    "resizemix": {},
    "saliencymix": {},
    "attentive_cutmix": {"grid": 8},
    "smmix": {"patch": 8},
    "snapmix": {"tap": "block_03/output"},
    "tokenmix": {"patch": 8},
}
# Labels by attention are of images that are mixed, and cost what that does too.
RELABELS = {"transmix": "cutmix", "tl_align": "cutmix", "mixpro": "maskmix"}
RULES = {
    "sam": {"optim": OptimConfig(name="adamw", lr=1e-4, gradient="sam")},
    "fake_quantize": {"transforms": (("fake_quantize", {"match": ("kernel",)}),)},
}
KD = ("kd", {"temperature": 4.0})
# Beside those of digits_distill.
TERMS = {
    "hard": ("hard",),
    "dist": ("dist",),
    "attention_transfer": (KD, "attention_transfer"),
    "rkd": (KD, "rkd"),
    "similarity": (KD, "similarity"),
    "m2mkd": ("m2mkd",),
    "path_self_distill": (KD, "path_self_distill"),
}
LOSSES = {
    "stablemax_cross_entropy": {},
    "binary_cross_entropy": {},
    "focal": {},
    "ldam": {"counts": tuple(range(10, 10 + CLASSES))},
    "comp_sum": {},
    "squared_hinge": {},
    "z_loss": {},
    "spherical_softmax": {},
    "semantic_softmax": {"parents": (-1, *(place // 2 for place in range(CLASSES - 1)))},
    "decoupled_softmax": {},
    "soft_topk": {},
}


def config_of(size: int, depth: int = BLOCKS, **fields: Any) -> Config:
    """A small ViT on images of that side."""
    fields = {"optim": OptimConfig(name="adamw", lr=1e-4), **fields}
    kwargs = {"img_size": size, "patch_size": 8, "dim": WIDTH, "depth": depth, "heads": 3}
    kwargs["scan_layers"] = True
    return Config(
        model=ModelConfig(name="deit_tiny_patch16_224", kwargs=kwargs),
        data=DataConfig(
            name="synthetic", kwargs={"classes": CLASSES, "examples": 256, "size": size}
        ),
        batch_size=64,
        duration="1000 steps",
        **fields,
    )


def step(name: str, config: Config, teacher: Any = None) -> Contender:
    """A step of the trainer on one batch, its state donated as there.

    Args:
      name: of the contender.
      config: the run's.
      teacher: a teacher in the place of those that the config names, drawn at random.
    """
    from unittest import mock

    from scanmax.train import sharding
    from scanmax.train.build import build
    from scanmax.train.feed import to_device

    def prepare():
        given = () if teacher is None else (teacher,)
        with mock.patch("scanmax.train.build.make_teachers", return_value=given):
            run = build(config, devices=jax.devices()[:1])
        state = run.init(None)
        with sharding.use_mesh(run.mesh, config.sharding):
            rows = next(run.pipeline.train_iterator(0))
            batch = to_device(rows, sharding.batch_sharding(run.mesh))
            shapes = [each.variable_shapes(run.example) for each in run.objective.teachers]
            rng = np.random.default_rng(0)
            drawn = jax.tree.map(lambda leaf: 0.02 * rng.normal(size=leaf.shape), tuple(shapes))
            drawn = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn)
            teachers = jax.device_put(drawn, sharding.replicated(run.mesh))

        def once():
            nonlocal state
            with sharding.use_mesh(run.mesh, config.sharding):
                state, metrics = run.train_step(state, batch, teachers)
            return jax.block_until_ready(metrics["loss"])

        return once

    return Contender(name, prepare)


def rows(
    methods: dict[str, Config], size: int, name: str, plain: Config, teacher: Any = None
) -> Iterator[Row]:
    """Steps beside one without, which computes something else at less cost.

    Args:
      methods: configs by what their rows are called.
      size: side of the images.
      name: of the step without.
      plain: its config; it is compiled once for all rows.
      teacher: of both.
    """
    without = step(name, plain, teacher)
    without.prepare = functools.cache(without.prepare)
    for method, config in methods.items():
        label = f"{method}, 64 x {size} x {size}"
        ours = step("scanmax", config, teacher)
        # A ratio of processor time stands on a machine that others use too.
        yield Row(label, ours, [without], reference=None, clock=time.process_time)


@benchmark("mixing_overhead", group="learning")
def mixing_overhead(quick: bool) -> Iterator[Row]:
    """Each mix on the device, beside a step without it; labels by attention; learned mixing."""
    size, methods = (16 if quick else 64), {}
    for name in ("mixup", "cutout") if quick else MIXES:
        per = {} if name in ("attentive_cutmix", "cutout") else {"per": "element"}
        methods[name] = config_of(size, mix=((name, {**per, **MIXES[name]}),))
    for name, mix in () if quick else RELABELS.items():
        own = ObjectiveConfig(kwargs={"relabel": name})
        options = {"per": "element", **MIXES[mix]}
        methods[name] = config_of(size, objective=own, mix=((mix, options),))
    for name in ("adautomix",) if quick else ("automix", "adautomix", "samix"):
        own = ObjectiveConfig(name=name, kwargs={"tap": "block_01/output"})
        methods[name] = config_of(size, objective=own)
    return rows(methods, size, "without it", config_of(size))


@benchmark("loss_overhead", group="learning")
def loss_overhead(quick: bool) -> Iterator[Row]:
    """Each loss of labels, beside a step of the cross-entropy."""
    size = 16 if quick else 64
    chosen = {name: LOSSES[name] for name in (("focal",) if quick else LOSSES)}
    methods = {
        name: config_of(size, objective=ObjectiveConfig(loss=name, loss_kwargs=dict(options)))
        for name, options in chosen.items()
    }
    return rows(methods, size, "cross-entropy", config_of(size))


@benchmark("term_overhead", group="learning")
def term_overhead(quick: bool) -> Iterator[Row]:
    """Each term between answers and activations, beside plain distillation by the same teacher."""
    from scanmax.train.teachers import Teacher

    size = 16 if quick else 64
    model = create_model("deit_tiny_patch16_224", CLASSES, **config_of(size).model.kwargs)
    teacher = Teacher("deit_tiny_patch16_224", model, reads_taps=True)
    configs = {
        name: config_of(size, 2, objective=ObjectiveConfig(terms=terms))
        for name, terms in {**digits_distill.TERMS, **TERMS}.items()
        if name != "none" and (not quick or name in ("kd", "hint"))
    }
    return rows(configs, size, "kd alone", configs.pop("kd"), teacher)


@benchmark("rule_overhead", group="learning")
def rule_overhead(quick: bool) -> Iterator[Row]:
    """Rules of the gradient and changes of the parameters, beside a step without."""
    size = 16 if quick else 64
    methods = {name: config_of(size, **fields) for name, fields in RULES.items()}
    return rows(methods, size, "without it", config_of(size))
