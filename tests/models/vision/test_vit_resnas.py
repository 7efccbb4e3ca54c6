"""ViT-Res and ViT-ResNAS: the suite of every model, published counts, reduction beside a mean."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.parts.spatial_reduction import ResidualReduction
from scanmax.testing import ModelCase, ModelSuite, compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

TINY = {
    "img_size": 16,
    "patch_size": 4,
    "stem_dim": 4,
    "dims": (6, 8),
    "head_counts": ((2, 2), (3,)),
    "head_dims": (4, 2),
    "hidden_dims": ((8, 8), (10,)),
    "num_classes": 5,
}


class VitResSuite(ModelSuite):
    family = "vit_resnas"
    # Those that a search found are counted below.
    names = ("vit_res_tiny",)
    small = (
        ModelCase(
            "vit_res_tiny", TINY, input_size=(16, 16, 3), other_inputs=((24, 16, 3), (16, 40, 3))
        ),
    )


@pytest.mark.parametrize(
    ("size", "published", "multiply_adds"),
    [("tiny", 41, 1.8), ("small", 65, 2.8), ("medium", 97, 4.5)],
)
def test_counts_are_the_papers(size, published, multiply_adds):
    """Which has a head of patches besides, for training alone."""
    name = f"vit_resnas_{size}"
    model, info = create_model(name), model_info(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), info.example())["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == info.params
    assert round((info.params + (model.dims[-1] + 1) * 1000) / 1e6) == published
    assert default_multiply_adds(name) / 1e9 == pytest.approx(multiply_adds, abs=0.1)


def test_what_is_shrunk_is_kept_beside():
    """norm, convolution and positions, besides the mean of four pixels and channels of nothing."""
    rng, module = np.random.default_rng(0), ResidualReduction(6, (2, 1))
    prefix, x = rng.normal(size=(2, 1, 4)), rng.normal(size=(2, 4, 2, 4))
    arrays = (prefix.astype(np.float32), x.astype(np.float32))
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *arrays))["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    run = jax.jit(
        lambda *a: module.apply({"params": params}, *a), compiler_options=COMPILER_OPTIONS
    )

    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * params["norm"]["scale"] + params["norm"]["bias"]

    padded, kernel = np.pad(norm(x), ((0, 0), (1, 1), (1, 1), (0, 0))), params["conv"]["kernel"]
    y = sum(padded[:, i : i + 3 : 2, j : j + 1] @ kernel[i, j] for i in range(3) for j in range(3))
    y = y + params["conv"]["bias"] + params["pos_embed"].reshape(2, 1, 6)
    y[..., :4] += x.reshape(2, 2, 2, 1, 2, 4).mean((2, 4))
    token = norm(prefix) @ params["tokens"]["kernel"] + params["tokens"]["bias"]
    token[..., :4] += prefix
    compare.assert_relative(run(*arrays), (token, y), 1e-5)


@pytest.mark.parametrize(
    ("fields", "shape", "error", "told"),
    [
        ({"head_counts": ((2,), (3,))}, (16, 16), UserError, "name as many blocks in each"),
        ({"dims": (6,)}, (16, 16), UserError, "are of 1 stages"),
        ({"patch_size": 3}, (18, 18), UserError, "an even number"),
        ({}, (20, 16), ValueError, "multiples of 8"),
        ({"dims": (8, 6)}, (16, 16), ValueError, "no more than 6 channels"),
    ],
)
def test_mistakes(fields, shape, error, told):
    model = create_model("vit_res_tiny", **{**TINY, **fields})
    with pytest.raises(error, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape, 3)))
