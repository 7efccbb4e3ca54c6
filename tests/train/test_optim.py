"""Schedules and optimizers against their formulas; regular expressions reach what they name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scanmax.errors import UserError
from scanmax.models.layers import NamedAxes
from scanmax.train.config import Durations, OptimConfig, ScheduleConfig
from scanmax.train.optim import OPTIMIZERS, decay_mask, make_optimizer, perp_grad
from scanmax.train.schedules import SCHEDULES, make_schedule, soft_mask_strength

DURATIONS = Durations(
    total=100, warmup=10, cooldown=20, log=1, eval=0, checkpoint=0, keep_every=0, step=30
)
PARAMS = {
    "block": {"kernel": jnp.ones((3, 4)), "bias": jnp.full((4,), 2.0)},
    "stacked": {"bias": jnp.ones((2, 4))},
    "pos_embed": jnp.ones((1, 5, 4)),
    "head": {"kernel": jnp.ones((4, 2))},
}
AXES = {
    "block": {"kernel": NamedAxes(("embed", "mlp"), (-2,), (-1,)), "bias": NamedAxes(("mlp",))},
    "stacked": {"bias": ("layers", "mlp")},
    "pos_embed": (None, None, "embed"),
    "head": {"kernel": None},
}
GRADS = jax.tree.map(lambda x: 0.1 * (1 + jnp.arange(x.size).reshape(x.shape)), PARAMS)


def build(**fields):
    return make_optimizer(OptimConfig(**fields), lambda step: 0.5, PARAMS, AXES)


def update(**fields):
    optimizer = build(**fields)
    return optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)[0]


def test_schedules():
    def rate(name, step, **fields):
        return float(make_schedule(ScheduleConfig(name=name, **fields), 2.0, DURATIONS)(step))

    for name in SCHEDULES:
        assert rate(name, 0) == pytest.approx(0.2)
        assert rate(name, 4) == pytest.approx(1.0)
        assert rate(name, 10) == pytest.approx(2.0)
    assert rate("cosine", 55) == pytest.approx(1.0)
    assert rate("cosine", 100, final=0.1) == pytest.approx(0.2)
    assert rate("linear", 55) == pytest.approx(1.0)
    assert rate("constant", 99) == pytest.approx(2.0)
    assert rate("rsqrt", 40) == pytest.approx(1.0)
    assert rate("wsd", 79) == pytest.approx(2.0)
    assert rate("wsd", 90) == pytest.approx(1.0)
    drops = [rate("step", step, factor=0.5) for step in (29, 30, 59, 60, 99)]
    assert drops == pytest.approx([2.0, 1.0, 1.0, 0.5, 0.25])
    assert rate("step", 99, final=0.01) == pytest.approx(0.02)
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        make_schedule(ScheduleConfig(name="cosin"), 1.0, DURATIONS)


def test_the_soft_mask_ends_when_it_should():
    linear = [float(soft_mask_strength(step, 5)) for step in range(7)]
    np.testing.assert_allclose(linear, [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0])
    constant = [float(soft_mask_strength(step, 3, start=0.5, kind="constant")) for step in range(5)]
    assert constant == [0.5, 0.5, 0.5, 0.0, 0.0]
    with pytest.raises(UserError, match="unknown kind='cosine'"):
        soft_mask_strength(0, 5, kind="cosine")


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_moves_downhill_and_keeps_shapes_and_dtypes(name):
    updates = update(name=name, weight_decay=0.01, clip_norm=1.0)
    moved = jax.tree.map(lambda x, u: float(jnp.sum(x * u)), GRADS, updates)
    assert all(value < 0 for value in jax.tree.leaves(moved))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), updates) == jax.tree.map(
        lambda x: (x.shape, x.dtype), PARAMS
    )


def test_adamw_is_optax_adamw():
    mask = decay_mask(("pos_embed",), PARAMS, AXES)
    theirs = optax.adamw(0.5, b1=0.8, b2=0.99, weight_decay=0.1, mask=mask)
    expected, _ = theirs.update(GRADS, theirs.init(PARAMS), PARAMS)
    found = update(name="adamw", b1=0.8, b2=0.99, weight_decay=0.1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_rmsprop_is_that_of_tensorflow():
    """Squares start from one, eps is in the root, momentum runs over what was divided."""
    optimizer = build(name="rmsprop", eps=0.1, momentum=0.7, no_decay=(), weight_decay=0.2)
    state = optimizer.init(PARAMS)
    squares, trace = 1.0, 0.0
    for _ in range(2):
        updates, state = optimizer.update(GRADS, state, PARAMS)
        gradient = np.asarray(GRADS["head"]["kernel"]) + 0.2 * np.asarray(PARAMS["head"]["kernel"])
        squares = 0.9 * squares + 0.1 * gradient**2
        trace = 0.7 * trace + gradient / np.sqrt(squares + 0.1)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.5 * trace, rtol=1e-5)


def test_weight_decay_reaches_matrices_only():
    mask = decay_mask(("pos_embed",), PARAMS, AXES)
    assert mask == {
        "block": {"kernel": True, "bias": False},
        "stacked": {"bias": False},
        "pos_embed": False,
        "head": {"kernel": True},
    }


def test_clipping_scales_the_whole_gradient():
    norm = optax.tree.norm(GRADS)
    clipped = update(name="sgd", momentum=0.0, clip_norm=0.3)
    jax.tree.map(
        lambda u, g: np.testing.assert_allclose(u, -0.5 * g * 0.3 / norm, rtol=1e-5), clipped, GRADS
    )
    jax.tree.map(
        lambda u, g: np.testing.assert_allclose(u, -0.5 * g, rtol=1e-5),
        update(name="sgd", momentum=0.0, clip_norm=1e9),
        GRADS,
    )


def test_perp_grad_is_orthogonal_and_keeps_the_norm():
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), PARAMS)
    for dtype in (jnp.float32, jnp.bfloat16):
        gradients = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), GRADS)
        projected, _ = perp_grad().update(gradients, optax.EmptyState(), params)
        tolerance = 1e-5 if dtype == jnp.float32 else 1e-2

        def check(g, w, new, tolerance=tolerance, dtype=dtype):
            assert new.dtype == dtype
            g, w, new = (np.asarray(x, np.float64).ravel() for x in (g, w, new))
            rest = g - (w @ g) / (w @ w) * w
            expected = rest * np.linalg.norm(g) / np.linalg.norm(rest)
            np.testing.assert_allclose(new, expected, rtol=tolerance, atol=tolerance)
            assert abs(w @ new) <= 4 * tolerance * np.linalg.norm(w) * np.linalg.norm(new)

        jax.tree.map(check, gradients, params, projected)


def test_perp_grad_leaves_what_has_no_orthogonal_part():
    same = {"scale": jnp.float32(3.0), "one": jnp.ones(1), "w": jnp.ones(5), "zero": jnp.zeros(5)}
    gradients = {"scale": jnp.float32(2.0), "one": jnp.ones(1), "w": -same["w"], "zero": same["w"]}
    projected, _ = perp_grad().update(gradients, optax.EmptyState(), same)
    jax.tree.map(np.testing.assert_array_equal, projected, gradients)
    zero, _ = perp_grad().update(same, optax.EmptyState(), jax.tree.map(jnp.zeros_like, same))
    jax.tree.map(np.testing.assert_array_equal, zero, same)
    with pytest.raises(ValueError, match="no params"):
        perp_grad().update(gradients, optax.EmptyState())


def test_perp_grad_by_config_goes_before_the_rule_and_layer_by_layer():
    params = PARAMS | {"stacked": {"bias": 1.0 + jnp.arange(8.0).reshape(2, 4)}}
    optimizer = make_optimizer(
        OptimConfig(name="sgd", momentum=0.0, perp_grad=True, freeze=("^head/",)),
        lambda step: 1.0,
        params,
        AXES,
    )
    found = optimizer.update(GRADS, optimizer.init(params), params)[0]
    assert not jnp.any(found["head"]["kernel"])
    layers = -np.asarray(found["stacked"]["bias"])
    for layer in range(2):
        g, w = GRADS["stacked"]["bias"][layer], params["stacked"]["bias"][layer]
        expected, _ = perp_grad().update(g, optax.EmptyState(), w)
        np.testing.assert_allclose(layers[layer], expected, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(layers[layer]), np.linalg.norm(g), rtol=1e-5)


def test_multipliers_and_freezing():
    plain = update(name="sgd", momentum=0.0)
    scaled = update(name="sgd", momentum=0.0, lr_multipliers=(("^head/", 10.0), ("kernel", 0.1)))
    np.testing.assert_allclose(scaled["head"]["kernel"], 10 * plain["head"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(scaled["block"]["kernel"], 0.1 * plain["block"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(scaled["pos_embed"], plain["pos_embed"])
    # A frozen parameter does not even decay, has no moments, and does not count in the norm.
    frozen = update(name="adamw", weight_decay=0.1, clip_norm=1.0, freeze=("^block/",))
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(frozen["block"]))
    assert jnp.all(frozen["head"]["kernel"] < 0)
    optimizer = build(name="adamw", freeze=("^(block|stacked|pos_embed)",))
    moments = [leaf for leaf in jax.tree.leaves(optimizer.init(PARAMS)) if leaf.ndim]
    assert [leaf.shape for leaf in moments] == [(4, 2), (4, 2)]


def test_mistakes():
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        build(name="adamww")
    with pytest.raises(UserError, match=r"config\.optim\.freeze: 'hed' matches no parameter"):
        build(freeze=("hed",))
    with pytest.raises(UserError, match="no regular expression"):
        build(lr_multipliers=(("(", 1.0),))
    with pytest.raises(UserError, match=r"config\.optim\.kwargs"):
        build(kwargs={"beta": 3})
