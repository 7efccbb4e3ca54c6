"""Level 9: clusters by rate reduction, against determinants and loops in float64."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallNet
from scanmax.testing.small_run import SmallImages
from scanmax.train.build import build
from scanmax.train.clustering import cluster_count, clustering_accuracy, spectral_labels
from scanmax.train.config import CheckpointConfig, Config, ModelConfig, ObjectiveConfig
from scanmax.train.evaluators.clustering import Clustering
from scanmax.train.losses import (
    coding_length,
    coding_rate,
    compressed_rate,
    sinkhorn_membership,
)
from scanmax.train.objectives.rate_reduction import RateReduction

KWARGS = {"hidden": 8, "dim": 4, "batch_norm": False, "gamma": 0.3, "warmup": 0}
BEST = CheckpointConfig(metric="clustering_accuracy", mode="max")


def rate(z, shares, precision=0.1):
    """t/2 logdet(I + D / (t precision) sum_i s_i z_i z_i^T), t = sum_i s_i."""
    width, total = z.shape[1], sum(shares)
    scatter = sum(s * jnp.outer(row, row) for s, row in zip(shares, z))
    found = jnp.eye(width, dtype=z.dtype) + width / (total * precision) * scatter
    return total / 2 * jnp.linalg.slogdet(found)[1]


def memberships(c, entropy, updates):
    """Released: updates of rows and columns in turn, columns without a gradient; sums of 1."""
    count = len(c)
    alike, log = jnp.abs(c @ c.T), jnp.log(1 / count)
    u = v = jnp.zeros(count, c.dtype)
    for step in range(updates):
        scores = alike / entropy
        if step % 2 == 0:
            u = log - jnp.log(jnp.exp(scores + v).sum(axis=1))
        else:
            v = log - jnp.log(jnp.exp(scores + u[:, None]).sum(axis=0))
            v = jax.lax.stop_gradient(v)
    return jnp.exp(alike / entropy + u[:, None] + v) * count


class RateReductionSuite(ObjectiveSuite):
    fields = {
        "objective": ObjectiveConfig(name="rate_reduction", weight=0.5, kwargs=KWARGS),
        "evaluators": (("clustering", {"candidates": (2, 3, 4)}),),
        "checkpoint": BEST,
    }
    model = SmallNet(num_classes=0)
    frozen = ("^model/",)

    def reference(self, variables, batch, teachers):
        params = variables["params"]
        heads, warm = params["heads"], variables["warm_start"]
        x = self.model.clone(dtype=jnp.float64).apply({"params": params["model"]}, batch["image"])
        x = jax.lax.stop_gradient(x)
        h = jnp.maximum(x @ heads["fc0"]["kernel"] + heads["fc0"]["bias"], 0)
        h = jnp.maximum(h @ heads["fc1"]["kernel"] + heads["fc1"]["bias"], 0)
        z = h @ heads["features"]["kernel"] + heads["features"]["bias"]
        kernel = heads["clusters"]["kernel"] + jax.lax.stop_gradient(warm["kernel"])
        c = h @ kernel + heads["clusters"]["bias"] + jax.lax.stop_gradient(warm["bias"])
        # The suite leaves the second of four rows out.
        kept = np.array([0, 2, 3])
        z, c = (y[kept] / jnp.sqrt((y[kept] ** 2).sum(1, keepdims=True)) for y in (z, c))
        p = memberships(c, 0.175, 5)
        whole = rate(z, np.ones(3)) / 3
        inside = sum(rate(z, p[:, j]) for j in range(3)) / 3
        return 0.5 * (inside - whole + 0.15 * (p**2).sum())


def unit_rows(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_rates_and_memberships_equal_loops_and_their_gradients_finite_differences():
    rng = np.random.default_rng(0)
    z, p = unit_rows(rng, 7, 3), rng.uniform(size=(7, 4))
    p[:, 3] = 0
    mask = np.array([1, 1, 0, 1, 1, 1, 0], bool)
    with jax.enable_x64(True):
        z, p = jnp.asarray(z), jnp.asarray(p)
        own, shares = z[mask], p[mask]
        np.testing.assert_allclose(coding_rate(z, mask), rate(own, np.ones(5)) / 5, rtol=1e-12)
        groups = sum(rate(own, shares[:, j]) for j in range(3)) / 5
        np.testing.assert_allclose(compressed_rate(z, p, mask), groups, rtol=1e-12)
        found = sinkhorn_membership(z, mask, entropy=0.3, iterations=3)
        ours = found[np.ix_(mask, mask)]
        np.testing.assert_allclose(ours, memberships(own, 0.3, 7), rtol=1e-12)
        assert not np.any(found[~mask])
        assert not np.any(found[:, ~mask])

        # Through all updates: only then is it the slope of the value.
        def loss(z):
            p = sinkhorn_membership(z, mask, unrolled=True)
            return coding_rate(z, mask, precision=0.3) - compressed_rate(z, p, mask) + p[0, 1]

        step, along = 1e-6, jnp.asarray(rng.normal(size=z.shape))
        found = jax.jit(jax.value_and_grad(loss))
        slope = (found(z + step * along)[0] - found(z - step * along)[0]) / (2 * step)
        gradient = found(z)[1]
        np.testing.assert_allclose(jnp.sum(gradient * along), slope, rtol=1e-7)


def test_a_rate_is_bounded_and_subspaces_at_right_angles_save_most():
    rng = np.random.default_rng(1)
    bound = 3 * np.log(1 + 1 / 0.1)
    for spread in (0.01, 0.3, 1.0):
        z = jnp.asarray(unit_rows(rng, 50, 6) * [1, 1, 1, spread, spread, spread])
        z /= jnp.linalg.norm(z, axis=1, keepdims=True)
        assert coding_rate(z) <= bound + 1e-4
    assert abs(coding_rate(jnp.eye(6)) - bound) < 1e-4

    # Three planes in six dimensions, turned towards each other by an angle, 60 on each.
    groups = np.arange(180) // 60
    inside = unit_rows(rng, 180, 2)

    def saved(angle):
        z = np.zeros((180, 6))
        for j in range(3):
            own = groups == j
            z[own, 2 * j : 2 * j + 2] = np.cos(angle) * inside[own]
            other = 2 * (j + 1) % 6
            z[own, other : other + 2] += np.sin(angle) * inside[own]
        return z, float(coding_rate(jnp.asarray(z)) - compressed_rate(jnp.asarray(z), one_hot))

    one_hot = jnp.asarray(np.eye(3)[groups])
    found = [saved(angle)[1] for angle in (0, 0.2, 0.4, 0.7)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[1] + 0.05
    z, right = saved(0)
    shuffled = jnp.asarray(np.eye(3)[rng.permutation(groups)])
    assert coding_rate(jnp.asarray(z)) - compressed_rate(jnp.asarray(z), shuffled) < right / 10
    # Their memberships give them back, and how many they are.
    p = np.asarray(sinkhorn_membership(jnp.asarray(z), iterations=20, entropy=0.1))
    np.testing.assert_allclose(p.sum(axis=0), 1, atol=1e-3)
    assert clustering_accuracy(spectral_labels(p, 3), groups) == 1
    count, lengths = cluster_count(p, z, range(1, 7))
    assert count == 3
    assert min(lengths.values()) == coding_length(z, groups)


def test_the_head_of_clusters_begins_where_the_warm_start_ends():
    kwargs = {**KWARGS, "warmup": 2}
    config = ObjectiveConfig(name="rate_reduction", kwargs=kwargs)
    objective = RateReduction(SmallNet(num_classes=0), config, **kwargs)
    batch = next(SmallImages(4, 1).train_iterator(0))
    variables = nn.unbox(jax.jit(objective.init)(jax.random.key(0), batch))
    params = variables.pop("params")
    carried = objective.begin(params, variables)
    head = params["heads"]["features"]["kernel"]
    np.testing.assert_array_equal(carried["warm_start"]["kernel"], head)

    apply = jax.jit(objective.apply)

    def found(carried):
        said = apply({"params": params, **carried}, batch)
        return said, {name: float(value[0]) for name, value in said.values.items()}

    moved = {**params, "heads": {**params["heads"], "features": {"kernel": head + 1, "bias": 2.0}}}
    for step, (kernel, done) in enumerate(((head + 1, 0), (head + 1, 1))):
        values = found(carried)[1]
        assert values["compression"] == values["membership"] == 0 > values["rate"]
        carried = objective.after_update(moved, carried, step)
        np.testing.assert_array_equal(carried["warm_start"]["kernel"], kernel)
        assert carried["warm_start"]["done"] == done
    late = objective.after_update(params, carried, 2)["warm_start"]
    np.testing.assert_array_equal(late["kernel"], head + 1)
    said, values = found({"warm_start": late})
    assert values["compression"] > 0 < values["membership"]
    np.testing.assert_allclose(
        said.metrics["rate_reduction"][0], -values["rate"] - values["compression"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim.weight_decay": 0.1}, "leaves the model as it is, and weight_decay=0.1"),
        ({"objective.loss": "focal"}, "reads no labels: leave config.objective.loss alone"),
        ({"objective.kwargs": {"entropy": 0.0}}, "entropy"),
        ({"evaluators": (("clustering", {"candidates": (90,)}),)}, "more clusters than"),
        ({"objective.name": "simclr", "objective.kwargs": {}}, "reads memberships"),
    ],
)
def test_what_it_could_not_heed_is_refused(change, message):
    config = Config(
        objective=ObjectiveConfig(name="rate_reduction", kwargs=dict(KWARGS)),
        model=ModelConfig(name="small"),
        batch_size=16,
        duration="2 steps",
        evaluators=("clustering",),
        checkpoint=BEST,
    )
    for path, value in change.items():
        *parents, name = path.split(".")
        section = config
        for parent in parents:
            section = getattr(section, parent)
        setattr(section, name, value)
    views = 2 if config.objective.name == "simclr" else 1
    with pytest.raises(UserError, match=message):
        build(config, pipeline=SmallImages(16, views), model=SmallNet())


def test_the_evaluator_clusters_the_whole_held_out_part():
    """Over batches, padding left out, by the best of all ways to give clusters classes."""
    config = Config(
        objective=ObjectiveConfig(name="rate_reduction", kwargs=dict(KWARGS)),
        model=ModelConfig(name="small"),
        batch_size=16,
        duration="2 steps",
        evaluators=(("clustering", {"candidates": (2, 5)}),),
        checkpoint=BEST,
    )
    run = build(config, pipeline=SmallImages(16), model=SmallNet())
    state = run.init(None)
    found = Clustering(candidates=(2, 5))(run, state)
    batches = list(run.pipeline.eval_batches())
    kept = [np.asarray(batch["mask"]) for batch in batches]
    images, labels = (
        np.concatenate([np.asarray(batch[name])[own] for batch, own in zip(batches, kept)])
        for name in ("image", "label")
    )
    assert len(batches) > 1 or not np.concatenate(kept).all()
    variables = {"params": state.params, **state.carried}
    told = run.objective.apply(variables, {"image": images}, method="predict")
    membership = np.asarray(run.objective.membership(told["c"]))
    clusters, classes = spectral_labels(membership, run.pipeline.num_classes), range(4)
    ways = [np.asarray(way) for way in itertools.permutations(classes)]
    best = max(np.mean(way[clusters] == labels) for way in ways)
    np.testing.assert_allclose(found["clustering_accuracy"], best)
    assert found["clusters"] in (2, 5)
