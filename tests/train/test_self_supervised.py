"""Level 9: objectives of two views, and evaluators of the features that they learn."""

import json

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scanmax import cli
from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallNet
from scanmax.testing.small_run import SmallImages
from scanmax.train import pod, sharding
from scanmax.train.__main__ import main
from scanmax.train.build import build
from scanmax.train.config import CheckpointConfig, Config, ModelConfig, ObjectiveConfig, OptimConfig
from scanmax.train.evaluation import evaluate
from scanmax.train.evaluators.knn import neighbour_votes
from scanmax.train.export import export
from scanmax.train.inference import load_for_inference, read_arrays
from scanmax.train.loop import train
from scanmax.train.objectives.byol import Byol, teacher_rate
from scanmax.train.objectives.views import direction_spread
from scanmax.train.seeds import train_seeds

BEST = {
    "evaluators": (("knn", {"k": 3}), "linear_probe"),
    "checkpoint": CheckpointConfig(metric="knn_accuracy", mode="max"),
}
SIMCLR = {"temperature": 0.5, "projector_widths": (8, 6)}
BYOL = {"momentum": 0.9, "projector_widths": (8, 6), "predictor_widths": (8,)}


def objective(name, **kwargs):
    return ObjectiveConfig(name=name, kwargs=kwargs)


def cosine(left, right):
    return left @ right / jnp.sqrt((left @ left) * (right @ right))


def projected(params, rows):
    """A hidden layer, batch norm over these rows, relu, a last layer."""
    hidden = [row @ params["fc0"]["kernel"] for row in rows]
    mean = sum(hidden) / len(hidden)
    variance = sum((row - mean) ** 2 for row in hidden) / len(hidden)
    scale, bias = params["norm0"]["scale"], params["norm0"]["bias"]
    normed = [scale * (row - mean) / jnp.sqrt(variance + 1e-5) + bias for row in hidden]
    return [jnp.maximum(0, row) @ params["fc1"]["kernel"] for row in normed]


class SimClrSuite(ObjectiveSuite):
    fields = {"objective": objective("simclr", **SIMCLR), **BEST}
    model = SmallNet(num_classes=0)
    views = 2

    def reference(self, variables, batch, teachers):
        model = self.model.clone(dtype=jnp.float64)
        params, count = variables["params"], len(batch["mask"])
        rows = [(row, view) for row in range(count) for view in range(2)]
        images = jnp.stack([batch["image"][place] for place in rows])
        features = model.apply({"params": params["model"]}, images)
        z = dict(zip(rows, projected(params["projector"], features)))
        kept = [place for place in rows if batch["mask"][place[0]]]
        total = 0.0
        for row, view in kept:
            own = z[row, view]
            others = sum(
                jnp.exp(cosine(own, z[place]) / 0.5) for place in kept if place != (row, view)
            )
            total -= jnp.log(jnp.exp(cosine(own, z[row, 1 - view]) / 0.5) / others)
        return total / len(kept)


class ByolSuite(ObjectiveSuite):
    fields = {"objective": objective("byol", **BYOL), **BEST}
    model = SmallNet(num_classes=0)
    views = 2

    def reference(self, variables, batch, teachers):
        model = self.model.clone(dtype=jnp.float64)
        params, momentum = variables["params"], variables["momentum"]
        foretold, targets = [], []
        for view in range(2):
            images = batch["image"][:, view]
            z = projected(params["projector"], model.apply({"params": params["model"]}, images))
            foretold.append(projected(params["predictor"], z))
            features = model.apply({"params": momentum["model"]}, images)
            targets.append(projected(momentum["projector"], features))
        kept = [row for row in range(len(batch["mask"])) if batch["mask"][row]]
        return sum(
            2 - 2 * cosine(foretold[view][row], targets[1 - view][row])
            for row in kept
            for view in range(2)
        ) / len(kept)


def small_config(name, **fields):
    """Two steps on SmallImages."""
    kwargs = {"simclr": SIMCLR, "byol": BYOL}[name]
    defaults = {"objective": objective(name, **kwargs), **BEST, "model": ModelConfig(name="small")}
    sizes = {"batch_size": 16, "duration": "2 steps", "log_every": "1", "eval_every": "1"}
    return Config(**{**defaults, **sizes, "optim": OptimConfig(lr=0.01), **fields})


def small_build(config, devices=1, views=2, model=None):
    model = SmallNet() if model is None else model
    data = SmallImages(16, views)
    return build(config, pipeline=data, model=model, devices=jax.devices()[:devices])


def test_byol_without_batch_norm_takes_a_batch_in_parts():
    batch = next(SmallImages(16, 2).train_iterator())
    updated = []
    for parts in (1, 2):
        options = OptimConfig(name="sgd", lr=1.0, accumulate=parts)
        kwargs = objective("byol", **BYOL, batch_norm=False)
        run = small_build(small_config("byol", optim=options, objective=kwargs))
        state, metrics = run.train_step(run.init(), batch, ())
        updated.append(jax.device_get((state.params, state.carried, metrics["loss"])))
    chex.assert_trees_all_close(*updated, rtol=1e-5, atol=1e-5)


def test_the_teacher_follows_its_schedule():
    """1 - (1 - m) (cos(pi k / K) + 1) / 2 of the teacher is kept by update k."""
    config = small_config("byol", duration="10 steps")
    run = small_build(config)
    assert (run.objective.total_steps, run.objective.momentum) == (10, 0.9)
    state = run.init()
    begun = {name: state.params[name] for name in ("model", "projector")}
    chex.assert_trees_all_equal(state.carried["momentum"], begun)
    # Another than the model, from here on.
    other = jax.tree.map(lambda leaf: leaf + 1, state.carried["momentum"])
    for step in (0, 3, 5, 9, 10):
        kept = 1 - 0.1 * (np.cos(np.pi * step / 10) + 1) / 2
        moved = run.objective.after_update(
            state.params, {**state.carried, "momentum": other}, jnp.asarray(step)
        )
        expected = jax.tree.map(
            lambda old, new, kept=kept: kept * old + (1 - kept) * new, other, begun
        )
        chex.assert_trees_all_close(moved["momentum"], expected, rtol=1e-6, atol=1e-6)
        assert moved.keys() == state.carried.keys()
    assert [float(teacher_rate(0.9, k, 10)) for k in (0, 5, 10)] == pytest.approx([0.1, 0.05, 0])


class Bare(Byol):
    """Without a predictor the two views only have to agree."""

    def setup(self):
        super().setup()
        self.predictor = lambda x, train: x


def trained_spread(kind, steps=200):
    """(first loss, last loss, last spread) of one batch learned for so many steps."""
    batch = jax.tree.map(jnp.asarray, next(SmallImages(64, 2).train_iterator()))
    own = kind(
        model=SmallNet(num_classes=0),
        config=ObjectiveConfig(name="byol"),
        momentum=0.9,
        projector_widths=(16, 8),
        predictor_widths=(16,),
        batch_norm=False,
        total_steps=steps,
    )
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    carried = nn.meta.unbox(own.init(keys, batch, train=True))
    params = carried.pop("params")
    optimizer = optax.adam(0.01)

    def step(state, index):
        params, carried, opt_state = state

        def loss_of(params):
            found, updates = own.apply(
                {"params": params, **carried}, batch, train=True, mutable=list(carried)
            )
            loss = found.values["views"].mean()
            return loss, ({**carried, **updates}, found.metrics["spread"][0])

        (loss, (carried, spread)), slope = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(slope, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, own.after_update(params, carried, index), opt_state), (loss, spread)

    scan = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(steps))[1])
    losses, spreads = scan((params, own.begin(params, carried), optimizer.init(params)))
    return float(losses[0]), float(losses[-1]), float(spreads[-1])


def test_byol_does_not_collapse_where_it_would_without_its_predictor():
    """0.64 of the sphere against 0.12, both with a small loss."""
    first, last, spread = trained_spread(Byol)
    assert last < 0.1 * first
    assert spread > 0.5
    first, last, spread = trained_spread(Bare)
    assert last < 0.1 * first
    assert spread < 0.25


def test_spread_is_zero_for_one_direction_and_one_for_all():
    rng = np.random.default_rng(0)
    lengths = rng.uniform(1, 2, (512, 1))
    same = lengths * rng.normal(size=8)
    assert float(direction_spread(jnp.asarray(same, jnp.float32))) < 1e-3
    every = rng.normal(size=(512, 8)).astype(np.float32)
    assert float(direction_spread(jnp.asarray(every))) == pytest.approx(1, abs=0.03)
    mask = np.arange(512) < 500
    every[~mask] = 1e6
    without = direction_spread(jnp.asarray(every[mask]))
    assert float(direction_spread(jnp.asarray(every), mask)) == pytest.approx(float(without))


@pytest.fixture(scope="module")
def evaluated():
    """(run, state, figures) of an untrained model, on one device and on eight."""
    found = {}
    for devices in (1, 8):
        config = small_config("simclr")
        run = small_build(config, devices)
        with sharding.use_mesh(run.mesh, config.sharding):
            state = run.init()
            found[devices] = run, state, evaluate(run, state, is_last=True)
    return found


def features_and_labels(run, state, batches):
    """Those of the rows that count."""
    params = {"params": jax.device_get(state.params)["model"]}
    parts = [(batch["image"][batch["mask"]], batch["label"][batch["mask"]]) for batch in batches]
    images, labels = (np.concatenate(part) for part in zip(*parts))
    return np.asarray(SmallNet(num_classes=0).apply(params, images), np.float64), labels


def test_neighbours_vote_as_the_loop_says(evaluated):
    run, state, figures = evaluated[1]
    bank, known = features_and_labels(run, state, run.pipeline.train_eval_batches())
    asked, labels = features_and_labels(run, state, run.pipeline.eval_batches())
    assert (len(known), len(labels)) == (64, 21)
    right = 0
    for query, label in zip(asked, labels):
        similarity = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        votes = np.zeros(4)
        for index in np.argsort(-similarity)[:3]:
            votes[known[index]] += np.exp(similarity[index] / 0.07)
        right += votes.argmax() == label
    assert 0 < right < 21
    assert figures["knn_accuracy"] == pytest.approx(right / 21)
    assert set(figures) == {"knn_accuracy", "probe_accuracy"}


def test_a_near_neighbour_counts_more_than_two_far_ones():
    bank = jnp.asarray([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8], [-1.0, 0.0]])
    labels, query = jnp.asarray([0, 1, 1, 2]), jnp.asarray([[2.0, 0.0]])
    near = neighbour_votes(query, bank, labels, 3, 0.07, 3)[0]
    assert near.argmax() == 0
    assert near[2] == 0
    assert neighbour_votes(query, bank, labels, 3, 10.0, 3)[0].argmax() == 1


def test_the_probe_is_a_linear_classifier_on_frozen_features(evaluated):
    from sklearn.linear_model import LogisticRegression

    run, state, figures = evaluated[1]
    train, known = features_and_labels(run, state, run.pipeline.train_eval_batches())
    asked, labels = features_and_labels(run, state, run.pipeline.eval_batches())
    mean, std = train.mean(0), train.std(0)
    fitted = LogisticRegression(max_iter=1000).fit((train - mean) / std, known)
    expected = (fitted.predict((asked - mean) / std) == labels).mean()
    assert figures["probe_accuracy"] == pytest.approx(expected, abs=1e-6)
    # By default it is for the end alone.
    assert "probe_accuracy" not in evaluate(run, state)


def test_evaluators_say_the_same_on_eight_devices(evaluated):
    assert evaluated[8][2] == pytest.approx(evaluated[1][2], abs=1e-6)


class Headless(SmallNet):
    """Gives a pair where it should give features."""

    def __call__(self, x, train=False):
        found = super().__call__(x, train)
        return (found, found)


class NoHead(nn.Module):
    """Has no head to go without."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(4)(x.reshape(x.shape[0], -1))


class WithoutTraining(SmallImages):
    """Data of a user who has not heard of evaluators."""

    train_eval_batches = property()


def test_what_cannot_be_is_one_line():
    own = {"checkpoint": CheckpointConfig()}
    nothing = {"evaluators": (), "checkpoint": CheckpointConfig()}
    no_best = CheckpointConfig(metric="")
    cases = [
        # The default of "best", which is no figure of such an objective.
        (nothing, "'loss': 'simclr' says nothing of single images; set config.evaluators="),
        (own, "unknown config.checkpoint.metric='loss'; .*knn_accuracy"),
        ({"checkpoint": no_best}, "metric='' means no best: set config.checkpoint.keep_best=0"),
        ({"evaluators": ("knm",)}, "unknown config.evaluators='knm'; did you mean 'knn'"),
        ({"evaluators": ("knn", "knn")}, "names 'knn' twice"),
        ({"evaluators": (("knn", {"n": 3}),)}, "'knn' has no option 'n'"),
        ({"evaluators": (("knn", {"k": 0}),)}, "k=0 must be at least 1"),
        ({"evaluators": (("knn", {"k": 65}),)}, "'knn' asks k=65 neighbours; there are 64"),
        ({"evaluators": (*BEST["evaluators"][:1], ("linear_probe", {"C": 0.0}))}, "C=0.0 must be"),
        ({"mix": ("mixup",)}, "'simclr' compares views, which do not mix"),
        ({"evaluators": ("knn", "sharpness")}, "'sharpness' asks for the loss of single examples"),
        ({"model": ModelConfig(name="small", num_classes=4)}, "'simclr' trains no head; leave 0"),
        ({"optim": OptimConfig(accumulate=2)}, "optim.accumulate=2"),
    ]
    for kwargs, message in [
        ({"projector_widths": ()}, r"projector_widths=\(\) must be widths"),
        ({"projector_widths": 8}, "projector_widths=8 must be widths"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"temprature": 1.0}, "no option 'temprature'; did you mean 'temperature'"),
    ]:
        cases.append(({"objective": objective("simclr", **kwargs)}, message))
    for kwargs, message in [
        ({"momentum": 1.5}, r"momentum=1.5 must be in \[0, 1\]"),
        ({"predictor_widths": (0,)}, r"predictor_widths=\(0,\) must be widths"),
    ]:
        cases.append(({"objective": objective("byol", **kwargs)}, message))
    for fields, message in [
        ({"terms": (("kd", {}),)}, "it takes no terms or teachers"),
        ({"label_smoothing": 0.1}, "leave config.objective.label_smoothing alone"),
    ]:
        cases.append(({"objective": ObjectiveConfig(name="simclr", **fields)}, message))
    for fields, message in cases:
        with pytest.raises(UserError, match=message):
            small_build(small_config("simclr", **fields))
    with pytest.raises(UserError, match=r"set config.data.augment.views=2, not 1"):
        small_build(small_config("simclr"), views=1)
    with pytest.raises(UserError, match="NoHead has no head to go without"):
        small_build(small_config("simclr"), model=NoHead())
    with pytest.raises(UserError, match="Headless gives others without its head"):
        small_build(small_config("simclr"), model=Headless())
    plain = {"objective": ObjectiveConfig(), "checkpoint": CheckpointConfig()}
    with pytest.raises(UserError, match=r"config.evaluators 'knn' .* its head; NoHead has"):
        small_build(small_config("simclr", **plain), views=1, model=NoHead())
    with pytest.raises(UserError, match="WithoutTraining needs a method train_eval_batches"):
        build(small_config("simclr", **plain), pipeline=WithoutTraining(), model=SmallNet())
    small = SmallImages()
    small.train_spec = {**small.train_spec, "local_image": small.train_spec["image"]}
    with pytest.raises(UserError, match=r"reads no small views: set config.data.augment.local"):
        build(small_config("simclr", **plain), pipeline=small, model=SmallNet())


FILE = """
from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.train.config import Config, ModelConfig, ObjectiveConfig

def get_config(arg=""):
    kwargs = {"img_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2}
    data = {"examples": 40, "eval_examples": 12, "size": 8, "classes": 4, "channels": 1}
    widths = {"projector_widths": (8, 6), "predictor_widths": (8,)}
    return Config(
        model=ModelConfig(name="vit_tiny_patch16_224", kwargs=kwargs),
        data=DataConfig(name="synthetic", kwargs=data, augment=AugmentConfig(views=2, flip=0.5)),
        objective=ObjectiveConfig(name="byol", kwargs=widths),
        batch_size=16,
        duration="2 steps",
        log_every="1 step",
        eval_every="1 step",
    )
"""


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """(workdir, words) of a run with what a user types."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "byol.py").write_text(FILE)
    words = [
        f"--config={folder / 'byol.py'}",
        "--config.evaluators=(('knn', {'k': 5}), ('linear_probe', {'C': 0.5}))",
        "--config.checkpoint.metric=knn_accuracy",
        "--config.checkpoint.mode=max",
    ]
    workdir = folder / "run"
    assert cli.run_main(main, [*words, f"--workdir={workdir}"]) == 0
    return workdir, words


def rows_of(workdir, split):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def test_a_typed_run_leaves_a_report_checkpoints_and_the_model_alone(typed):
    workdir, _ = typed
    first, last = rows_of(workdir, "eval")
    assert "knn_accuracy" in first
    assert "probe_accuracy" not in first
    assert 0 <= last["probe_accuracy"] <= 1
    assert {"loss", "spread"} <= rows_of(workdir, "train")[0].keys()
    page = (workdir / "report.html").read_text()
    assert "held-out knn accuracy" in page
    assert "held-out loss" not in page
    trained = load_for_inference(workdir, "best")
    assert trained.config.evaluators[0] == ("knn", {"k": 5})
    assert not {"projector", "predictor"} & trained.variables["params"].keys()
    assert "head" not in trained.variables["params"]
    folder = export(trained, workdir / "export", batch_size=2)
    assert json.loads((folder / "model.json").read_text())["outputs"][0]["shape"] == ["2", "16"]


def test_seeds_in_one_step_carry_each_its_own_teacher(typed, tmp_path):
    workdir, words = typed
    config, _ = cli.parse_flags(words)
    config.log.report = False
    held_out = train_seeds(config, {0: tmp_path / "0", 5: tmp_path / "5"})
    assert rows_of(tmp_path / "0", "train")[-1]["loss"] == pytest.approx(
        rows_of(workdir, "train")[-1]["loss"], rel=1e-5
    )
    alone = rows_of(workdir, "eval")[-1]
    assert {name: alone[name] for name in held_out[0]} == pytest.approx(held_out[0])
    arrays = [read_arrays(tmp_path / seed / "checkpoints/2/state", ("carried",)) for seed in "05"]
    own = read_arrays(workdir / "checkpoints/2/state", ("carried",))
    chex.assert_trees_all_close(arrays[0], own, rtol=1e-5, atol=1e-5)
    momentum = [jax.tree.leaves(found["carried"]["momentum"]) for found in arrays]
    assert any(np.any(left != right) for left, right in zip(*momentum))


def test_a_pod_holds_the_teacher_as_it_holds_the_model(typed):
    config, _ = cli.parse_flags(typed[1])
    config.sharding.preset, config.sharding.min_size = "fsdp", 64
    report = pod.compile_for(config, "v5e:2x4", devices=jax.devices())
    assert 0 < report.state["momentum"] < report.state["parameters"]


def test_without_a_best_nothing_is_kept_as_one(tmp_path):
    checkpoint = CheckpointConfig(metric="", keep_best=0, every="1 step")
    config = small_config("simclr", evaluators=(), checkpoint=checkpoint, duration="1 step")
    assert train(config, tmp_path, pipeline=SmallImages(16, 2), model=SmallNet()) == {}
    trained = load_for_inference(tmp_path, model=SmallNet())
    assert set(trained.variables["params"]) == {"embed", "hidden"}
    with pytest.raises(UserError, match="take step='last'"):
        load_for_inference(tmp_path, "best", model=SmallNet())
