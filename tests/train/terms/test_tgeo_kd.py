"""Level 9: a term whose shares learn by what is held out, the outer gradient by differences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallImages, SmallNet, step_loss
from scanmax.train.build import build
from scanmax.train.config import Config, ModelConfig, ObjectiveConfig, OptimConfig
from scanmax.train.gradients import GRADIENTS
from scanmax.train.teachers import Teacher, Told
from scanmax.train.terms import TERMS

OPTIONS = {"temperature": 2.0, "hidden": 8}
OPTIM = OptimConfig(name="sgd", momentum=0.0, lr=1.0, gradient="unrolled")


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True)) if isinstance(x, np.ndarray) else jnp.exp(x)
    return x / x.sum(axis=-1, keepdims=True)


class TgeoKdSuite(ObjectiveSuite):
    fields = {
        "objective": ObjectiveConfig(weight=0.0, terms=(("tgeo_kd", {**OPTIONS, "weight": 0.5}),)),
        "optim": OPTIM,
    }
    teacher = SmallNet(width=6)
    frozen = ("head_dist",)

    def reference(self, variables, batch, teachers):
        student = {"params": variables["params"]["model"]}
        own = self.model.clone(dtype=jnp.float64).apply(student, batch["image"], train=True)
        told = self.teacher.clone(dtype=jnp.float64).apply(teachers[0], batch["image"])
        mlp, total = variables["params"]["tgeo_kd"], 0.0
        rows = [row for row in range(len(own)) if batch["mask"][row]]
        for row in rows:
            g = jnp.eye(4)[batch["label"][row]]
            alike = [softmax(told[i]) for i in rows if batch["label"][i] == batch["label"][row]]
            mean = sum(alike) / len(alike)
            s, t = jax.lax.stop_gradient(softmax(own[row])), softmax(told[row])
            edges = jnp.concatenate([s - g, t - g, s - t, s - mean, mean - g])
            hidden = jnp.maximum(edges @ mlp["fc0"]["kernel"] + mlp["fc0"]["bias"], 0)
            alpha = 1 / (1 + jnp.exp(-(hidden @ mlp["fc1"]["kernel"] + mlp["fc1"]["bias"])[0]))
            p, q = softmax(told[row] / 2), softmax(own[row] / 2)
            kl = sum(p * (jnp.log(p) - jnp.log(q)))
            label = -jnp.log(softmax(own[row])) @ g
            total += 0.5 * (alpha * 4 * kl + (1 - alpha) * label)
        return total / len(rows)


def test_outer_gradient_is_that_of_a_step_by_hand_and_differences():
    """A linear student whose step is written out, in float64; the plain gradient elsewhere."""
    rng = np.random.default_rng(0)
    rows, width, classes, tau, rate = 7, 5, 3, 2.0, 0.4
    images = rng.normal(size=(rows, width))
    labels = rng.integers(0, classes, rows)
    told, kernel = rng.normal(size=(rows, classes)) * 2, rng.normal(size=(width, classes))
    mask = np.array([1, 1, 1, 1, 0, 1, 1], bool)
    term = TERMS["tgeo_kd"](name="tgeo_kd", **{**OPTIONS, "across": False})
    batch = {"image": images, "label": labels, "told": told, "mask": mask}

    def shares(weights, logits):
        s, t, g = softmax(logits), softmax(told), np.eye(classes)[labels]
        x = np.concatenate([s - g, t - g, s - t], axis=1)
        hidden = np.maximum(x @ weights["fc0"]["kernel"] + weights["fc0"]["bias"], 0)
        return 1 / (1 + np.exp(-(hidden @ weights["fc1"]["kernel"] + weights["fc1"]["bias"])[:, 0]))

    def outer(weights):
        logits, g = images @ kernel, np.eye(classes)[labels]
        alpha = shares(weights, logits)[:, None]
        slope = alpha * tau * (softmax(logits / tau) - softmax(told / tau))
        slope += (1 - alpha) * (softmax(logits) - g)
        train = mask & (np.arange(rows) % 3 != 0)
        moved = kernel - rate * images[train].T @ slope[train] / train.sum()
        held = mask & (np.arange(rows) % 3 == 0)
        right = softmax(images @ moved)[np.arange(rows), labels]
        return -np.log(right[held]).mean()

    def loss(params, part):
        said = Told(part["image"] @ params["model"], {}), Told(part["told"], {})
        values = term.apply({"params": params["tgeo_kd"]}, *said, part)
        return jnp.sum(jnp.where(part["mask"], values, 0)) / mask.sum()

    with jax.enable_x64(True):
        batch = jax.tree.map(jnp.asarray, batch)
        said = Told(batch["image"] @ kernel, {}), Told(batch["told"], {})
        weights = nn.unbox(jax.jit(term.init)(jax.random.key(0), *said, batch))["params"]
        weights = jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), jax.tree.map(np.asarray, weights)
        )
        params = {"model": jnp.asarray(kernel), "tgeo_kd": weights}
        rule = GRADIENTS["unrolled"](rate=rate, parts=3)
        step = step_loss(loss, batch)
        rule_of = jax.jit(
            lambda params: (rule(step, params, None)[1], jax.grad(loss)(params, batch))
        )
        found, plain = jax.device_get(rule_of(params))
    np.testing.assert_array_equal(found["model"], plain["model"])
    weights, small = jax.tree.map(np.asarray, weights), 1e-6
    for layer, leaves in weights.items():
        for name, leaf in leaves.items():
            for place in np.ndindex(leaf.shape):
                values = []
                for sign in (1, -1):
                    moved = leaf.copy()
                    moved[place] += sign * small
                    values.append(outer({**weights, layer: {**leaves, name: moved}}))
                expected = (values[0] - values[1]) / (2 * small)
                ours = found["tgeo_kd"][layer][name][place]
                np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-9)
    assert np.abs(found["tgeo_kd"]["fc1"]["kernel"]).max() > 1e-4


@pytest.mark.parametrize(
    ("gradient", "kwargs", "batch_size", "message"),
    [
        ("plain", {}, 16, "set config.optim.gradient='unrolled'"),
        ("sam", {}, 16, "set config.optim.gradient='unrolled'"),
        ("unrolled", {"match": ("tgeo_kd/fc0",)}, 16, "must name '.tgeo_kd/'"),
        ("unrolled", {"match": ("kernel",)}, 16, "names parameters of the model"),
        ("unrolled", {"match": ("nobody",)}, 16, "matches no parameter"),
        ("unrolled", {"parts": 3}, 16, "parts=3 must divide config.batch_size=16"),
        ("unrolled", {"parts": 1}, 16, "parts=1 must be at least 2"),
        ("unrolled", {"rate": 0.0}, 16, "rate=0.0 must be above 0"),
    ],
)
def test_what_does_not_learn_so_is_refused(gradient, kwargs, batch_size, message, monkeypatch):
    given = (Teacher("small", SmallNet(width=6)),)
    monkeypatch.setattr("scanmax.train.build.make_teachers", lambda *args, **kwargs: given)
    config = Config(
        model=ModelConfig(name="small"),
        objective=ObjectiveConfig(terms=(("tgeo_kd", {}),)),
        optim=OptimConfig(gradient=gradient, gradient_kwargs=kwargs),
        batch_size=batch_size,
    )
    with pytest.raises(UserError, match=message):
        build(config, pipeline=SmallImages(), model=SmallNet())
