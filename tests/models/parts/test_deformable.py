"""Deformable attention with its maps: its start, and several levels against the equation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models.parts.deformable import DeformableAttention, pixel_middles
from scanmax.ops import reference
from scanmax.testing.model_suite import COMPILER_OPTIONS

SHAPES = ((2, 3), (1, 2))
DIM, HEADS, POINTS = 8, 2, 3


def start(**fields):
    module = DeformableAttention(HEADS, points=POINTS, **fields)
    references = np.concatenate([pixel_middles(shape) for shape in SHAPES])
    x = np.random.default_rng(0).normal(size=(2, len(references), DIM)).astype(np.float32)
    init = jax.jit(
        lambda key: module.init(key, x, references, x, SHAPES), compiler_options=COMPILER_OPTIONS
    )
    return module, nn.unbox(init(jax.random.key(0))), references, x


def test_offsets_start_as_rays_and_points_as_equals():
    _, variables, _, _ = start()
    offsets, weights = (variables["params"][name] for name in ("offsets", "weights"))
    # The second of two heads looks back along its row; every point is one pixel further.
    expected = np.zeros((HEADS, len(SHAPES), POINTS, 2))
    expected[0, ..., 1], expected[1, ..., 1] = (1, 2, 3), (-1, -2, -3)
    np.testing.assert_allclose(offsets["bias"], expected, atol=1e-6)
    assert not np.any(offsets["kernel"])
    assert not np.any(weights["kernel"])


def test_without_offsets_every_pixel_reads_itself_at_its_level():
    module, variables, references, x = start()
    params = variables["params"]
    still = {**params, "offsets": jax.tree.map(jnp.zeros_like, params["offsets"])}
    middles = np.asarray(references)[:, None, None, None]
    places = np.broadcast_to(middles, (len(references), HEADS, len(SHAPES), POINTS, 2))
    with jax.enable_x64(True):
        values = np.einsum("bsd,dhv->bshv", x.astype(float), params["value"]["kernel"])
        places = np.broadcast_to(places, (2, *places.shape))
        weights = np.full(places.shape[:-1], 1 / (len(SHAPES) * POINTS))
        read = reference.deformable_attention(values, places, weights, level_shapes=SHAPES)
        expected = np.einsum("bthv,hvd->btd", read, params["out"]["kernel"])
    run = jax.jit(
        lambda params: module.apply({"params": params}, x, references, x, SHAPES),
        compiler_options=COMPILER_OPTIONS,
    )
    np.testing.assert_allclose(run(still), expected, rtol=1e-4, atol=1e-5)


def test_values_may_be_narrower_and_heads_must_divide_them():
    _, variables, _, _ = start(ratio=0.5)
    assert variables["params"]["value"]["kernel"].shape == (DIM, HEADS, DIM // 2 // HEADS)
    with pytest.raises(UserError, match="heads=2 do not divide the values' width 1"):
        start(ratio=0.125)
