"""Diffusion-RWKV: the suite of every model, published counts, times, labels and the channel mix."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.models.mixers.scan.wkv import ChannelMix
from scanmax.models.parts.conditioning import waves_of
from scanmax.testing import ModelCase, ModelSuite, compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

TINY = {
    "out_channels": 3,
    "img_size": 4,
    "dim": 8,
    "depth": 3,
    "heads": 2,
    "mlp_ratio": 2.0,
    "label_count": 2,
}


class DiffusionRwkvSuite(ModelSuite):
    family = "drwkv"
    # The others differ in width and depth; all are counted below.
    names = ("drwkv_s_2",)
    small = (
        ModelCase("drwkv_s_2", TINY, input_size=(4, 4, 3), other_inputs=((8, 4, 3), (6, 10, 3))),
    )


def test_every_published_size_has_its_exact_count():
    """Blocks of one width weigh the same, on either side of the middle: two pairs tell all."""

    @functools.cache
    def counted(dim, depth):
        model = create_model("drwkv_s_2", dim=dim, depth=depth)
        example = model_info("drwkv_s_2").example()
        shapes = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    for name in list_models(family="drwkv"):
        model = create_model(name)
        least, pair = counted(model.dim, 3), counted(model.dim, 5) - counted(model.dim, 3)
        assert least + (model.depth - 3) // 2 * pair == model_info(name).params, name


@pytest.fixture(scope="module")
def seeded():
    """(model, variables off their start, images)"""
    model, rng = create_model("drwkv_s_2", **{**TINY, "depth": 1}), np.random.default_rng(0)
    images = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), images))
    draw = lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return model, jax.tree.map(draw, shapes), images


def test_times_and_labels_tell_each_image_apart(seeded):
    model, variables, images = seeded

    def apply(x, timesteps, labels, train=False, drop=0.0):
        own = model.clone(label_drop_rate=drop)
        rngs = {"dropout": jax.random.key(0)}
        told = {"timesteps": timesteps, "labels": labels}
        return own.apply(variables, x, train, rngs=rngs, **told)

    run = jax.jit(apply, static_argnums=(3, 4), compiler_options=COMPILER_OPTIONS)
    times, labels = jnp.array([3.0, 500.0]), jnp.array([1, 0])
    both = np.asarray(run(images, times, labels))
    swapped = np.asarray(run(images[::-1], times[::-1], labels[::-1]))
    compare.assert_relative(swapped[::-1], both, 1e-5)
    assert np.abs(run(images, times[::-1], labels) - both).max() > 1e-3
    assert np.abs(run(images, times, labels[::-1]) - both).max() > 1e-3
    # Whole numbers are times as well, and without labels they are the unknown one.
    unknown = model.apply(variables, images, timesteps=jnp.array([3, 500]))
    compare.assert_relative(run(images, times, jnp.array([2, 2])), unknown, 1e-5)
    # In training all are dropped for unknown at a rate of 1, none at 0.
    compare.assert_relative(run(images, times, labels, True, 1.0), unknown, 1e-5)
    compare.assert_relative(run(images, times, labels, True, 0.0), both, 1e-5)


def test_it_starts_by_finding_no_noise_whatever_it_is_told():
    model = create_model("drwkv_s_2", **{**TINY, "depth": 1})
    images = jnp.ones((1, 4, 4, 3))
    run = jax.jit(model.init_with_output, compiler_options=COMPILER_OPTIONS)
    assert not np.any(run(jax.random.key(0), images)[0])


def test_waves_of_times():
    actual = np.asarray(waves_of(jnp.array([0.0, 2.5]), 6))
    rates = np.array([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])
    angles = np.array([[0.0], [2.5]]) * rates
    np.testing.assert_allclose(actual, np.hstack([np.cos(angles), np.sin(angles)]), atol=1e-6)


def test_channel_mix_is_its_equation():
    """A quarter of the channels each from the left, the right, above and below."""
    rng, module = np.random.default_rng(0), ChannelMix(heads=1, hidden=12, layer=1, layers=4)
    x = rng.normal(size=(2, 6, 8)).astype(np.float32)
    start = module.init(jax.random.key(0), x, (2, 3))["params"]
    ramp = (np.arange(8) / 8) ** 0.75
    for name in ("mix_key", "mix_receptance"):
        np.testing.assert_allclose(nn.unbox(start)[name], ramp, rtol=1e-6)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), nn.unbox(start)
    )
    maps = np.pad(x.astype(np.float64).reshape(2, 2, 3, 8), ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = ((1, 0), (1, 2), (0, 1), (2, 1))
    near = np.concatenate(
        [maps[:, r : r + 2, c : c + 3, 2 * i : 2 * i + 2] for i, (r, c) in enumerate(places)], -1
    ).reshape(x.shape)
    mixed = {
        name: params[f"mix_{name}"] * x + (1 - params[f"mix_{name}"]) * near
        for name in ("key", "receptance")
    }
    hidden = np.maximum(mixed["key"] @ params["key"]["kernel"], 0) ** 2
    gate = 1 / (1 + np.exp(-mixed["receptance"] @ params["receptance"]["kernel"]))
    expected = gate * (hidden @ params["value"]["kernel"])
    compare.assert_relative(module.apply({"params": params}, x, (2, 3)), expected, 1e-5)


@pytest.mark.parametrize(
    ("fields", "told_of", "error", "told"),
    [
        ({"depth": 4}, {}, UserError, "on either side of one"),
        ({"label_count": 0}, {"labels": jnp.array([0])}, UserError, "this model knows none"),
        ({}, {"timesteps": jnp.zeros((3,))}, ValueError, r"expected \(1,\)"),
    ],
)
def test_mistakes(fields, told_of, error, told):
    model = create_model("drwkv_s_2", **{**TINY, **fields})
    init = functools.partial(model.init, **told_of)
    with pytest.raises(error, match=told):
        jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
