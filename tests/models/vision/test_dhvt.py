"""DHVT: the suite of every model, published counts, its MLP and its stem by their equations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count
from scipy.special import erf

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.parts.aggregation_mlp import AggregationMlp
from scanmax.testing import ModelCase, ModelSuite


class DhvtSuite(ModelSuite):
    family = "dhvt"
    # The others differ in widths, patches and heads; all are counted below.
    names = ("dhvt_tiny_cifar_patch4",)
    small = (
        ModelCase(
            "dhvt_tiny_cifar_patch4",
            {
                "img_size": 8,
                "dim": 8,
                "depth": 2,
                "heads": 2,
                "mlp_ratio": 2.0,
                "num_classes": 5,
            },
            input_size=(8, 8, 3),
            other_inputs=((12, 8, 3), (9, 14, 3)),
        ),
    )
    # Behind these stand batch norms, which take away what is the same everywhere.
    vanishing = r"block(s|_\d+)/mlp/(fc1|conv|fc2)/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("dhvt", DhvtSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [("dhvt_tiny_imagenet_patch16", 1.4), ("dhvt_small_imagenet_patch16", 5.1)],
)
def test_multiply_adds_are_the_releases(name, published):
    # Counted there with norms and activations, which are not here.
    found = default_multiply_adds(name) / 1e9
    assert published - 0.1 < found < published


def gelu(x):
    return x * (1 + erf(x / 2**0.5)) / 2


def test_the_mlp_is_its_equation():
    rng = np.random.default_rng(0)
    x, grid = rng.normal(size=(2, 2 + 6, 4)), (2, 3)
    with jax.enable_x64(True):
        dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        mlp = AggregationMlp(8, prefix_tokens=2, **dtypes)
        shapes = jax.eval_shape(lambda: mlp.init(jax.random.key(0), jnp.asarray(x), grid))
        variables = jax.tree.map(
            lambda leaf: np.abs(rng.normal(size=leaf.shape)) + 0.1, nn.unbox(shapes)
        )
        y = np.asarray(mlp.apply(variables, jnp.asarray(x), grid))
    params, averages = variables["params"], variables["batch_stats"]

    def dense(x, name):
        return x @ params[name]["kernel"] + params[name]["bias"]

    def norm(x, name):
        own, mean, variance = params[name], averages[name]["mean"], averages[name]["variance"]
        return (x - mean) / np.sqrt(variance + 1e-5) * own["scale"] + own["bias"]

    h = gelu(norm(dense(x[:, 2:], "fc1"), "norm1")).reshape(2, *grid, 8)
    kernel, padded = params["conv"]["kernel"], np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    convolved = params["conv"]["bias"] + sum(
        padded[:, i : i + 2, j : j + 3] * kernel[i, j, 0] for i in range(3) for j in range(3)
    )
    h = (h + gelu(norm(convolved, "norm2"))).reshape(2, 6, 8)
    tokens = norm(dense(h, "fc2"), "norm3")
    scale = dense(gelu(dense(tokens.mean(1, keepdims=True), "compress")), "expand")
    np.testing.assert_allclose(y[:, 2:], tokens, rtol=1e-12)
    np.testing.assert_allclose(y[:, :2], x[:, :2] * scale, rtol=1e-12)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"patch_size": 3}, "patch_size=3: this stem takes a power of two from 2 on"),
        ({"parallel": 2}, "do without moe, parallel and token_reduction"),
        ({"stem": "conv"}, "stem='conv' is not one of patches, .*, overlapping"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, told):
    model = create_model("dhvt_tiny_cifar_patch4", **fields)
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
