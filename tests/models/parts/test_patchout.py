"""Patches that training leaves out, and positions of rows and columns, patch by patch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.parts.patchout import Patchout
from scanmax.models.parts.positions import axis_positions

TINY = {"img_size": (8, 12), "patch_size": 2, "dim": 8, "depth": 1, "heads": 2, "num_classes": 3}
GRID = (4, 6)


def places(batch=3):
    """Patches whose numbers are their places."""
    return jnp.broadcast_to(jnp.arange(24.0)[None, :, None], (batch, 24, 2))


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(
    ("fields", "grid"),
    [
        ({"rows": 1, "columns": 2}, (3, 4)),
        ({"columns": 5}, (4, 1)),
        ({"tokens": 7}, (1, 17)),
        ({"tokens": 0.25}, (1, 18)),
        ({"rows": 2, "tokens": 0.5}, (1, 6)),
        ({}, (4, 6)),
    ],
)
def test_what_stays_is_in_its_order_and_drawn_alike(fields, grid, per_image):
    leave_out = Patchout(**fields, per_image=per_image)
    seen, rows = np.zeros(24), set()
    run = jax.jit(lambda key: leave_out(key, places(), GRID)[0])
    assert leave_out(jax.random.key(0), places(), GRID)[1] == grid
    for seed in range(100):
        found = np.asarray(run(jax.random.key(seed)))[..., 0].astype(int)
        assert found.shape == (3, grid[0] * grid[1])
        assert (np.diff(found, axis=1) > 0).all()
        assert per_image or (found == found[0]).all()
        rows.add(tuple(found[0]) == tuple(found[1]))
        for own in found:
            seen[own] += 1
            height, width = (np.unique(each) for each in (own // 6, own % 6))
            if "tokens" not in fields:
                assert len(height) * len(width) == len(own)
            assert len(height) <= 4 - fields.get("rows", 0)
    assert (False in rows) == (per_image and bool(fields))
    share = grid[0] * grid[1] / 24
    # Three hundred or, alike for three images, a hundred draws of each place.
    error = 5 * np.sqrt(share * (1 - share) / 100)
    assert np.abs(seen / 300 - share).max() <= error


def test_training_reads_what_stays_and_evaluation_all():
    patchout = {"rows": 1, "columns": 2, "tokens": 3}
    model = create_model("deit_tiny_patch16_224", **TINY, patchout=patchout)
    images = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
    variables = nn.unbox(model.init(jax.random.key(0), images))
    plain = model.clone(patchout=None)
    none = model.clone(patchout={})
    rngs = {"dropout": jax.random.key(2)}

    def total(images, model):
        return (model.apply(variables, images, train=True, rngs=rngs)[0] ** 2).sum()

    @jax.jit
    def slopes(images):
        return [jax.grad(total)(images, each) for each in (model, none, plain)]

    np.testing.assert_array_equal(model.apply(variables, images), plain.apply(variables, images))
    some, whole, expected = slopes(images)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    read = np.asarray(some)[0].reshape(4, 2, 6, 2, 3).any((1, 3, 4))
    assert read.sum() == 3 * 4 - 3
    assert read.any(1).sum() <= 3
    assert read.any(0).sum() <= 4
    maps = model.apply(variables, images, method="features")
    assert maps[0].shape == (2, 4, 6, 8)


def test_positions_are_those_of_a_row_and_of_a_column():
    model = create_model("deit_tiny_patch16_224", **TINY, positions="axes")
    images = jnp.zeros((1, 8, 12, 3))
    variables = nn.unbox(model.init(jax.random.key(0), images))
    params = variables["params"]
    assert {name: params[name].shape for name in params if name.startswith("pos")} == {
        "pos_embed": (1, 8),
        "pos_embed_rows": (4, 8),
        "pos_embed_columns": (6, 8),
    }

    class Places(nn.Module):
        param_dtype: jnp.dtype = jnp.float32

        @nn.compact
        def __call__(self, grid, train=False):
            return axis_positions(self, 8, GRID, grid, prefix_tokens=1, train=train)

    own = {"params": {name: params[name] for name in params if name.startswith("pos")}}

    def added(width, train=False, **rngs):
        return np.asarray(Places().apply(own, (4, width), train, rngs=rngs))

    def table(first, width):
        rows, columns = params["pos_embed_rows"], params["pos_embed_columns"]
        both = [rows[y] + columns[first + x] for y in range(4) for x in range(width)]
        return np.stack([params["pos_embed"][0], *both])

    np.testing.assert_allclose(added(6), table(0, 6), atol=1e-6)
    np.testing.assert_allclose(added(4), table(0, 4), atol=1e-6)
    firsts = set()
    for seed in range(12):
        found = added(4, True, dropout=jax.random.key(seed))
        (first,) = (i for i in range(3) if np.allclose(found, table(i, 4), atol=1e-6))
        firsts.add(first)
    assert firsts == {0, 1, 2}
    images = jax.random.normal(jax.random.key(1), (1, 8, 12, 3))
    rest = {name: value for name, value in params.items() if not name.startswith("pos_embed_")}
    learned = {"params": {**rest, "pos_embed": table(0, 6)}}
    expected = model.clone(positions="learned").apply(learned, images)
    np.testing.assert_allclose(model.apply(variables, images), expected, atol=1e-5)
    with pytest.raises(UserError, match="has 4 x 6 places, the image 4 x 7 patches"):
        model.apply(variables, jnp.zeros((1, 8, 14, 3)))


@pytest.mark.parametrize("fields", [{"rows": 4}, {"columns": -1}, {"tokens": 24}])
def test_some_must_stay(fields):
    with pytest.raises(UserError, match="leave some of the 4 x 6 patches"):
        Patchout(**fields).kept(GRID)
