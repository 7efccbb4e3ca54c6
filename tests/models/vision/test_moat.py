"""MOAT: the suite of every model, published counts and costs, windows, positions, shortcuts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.models.vision.moat import MoatBlock
from scanmax.testing import ModelCase, ModelSuite
from scanmax.testing.model_suite import COMPILER_OPTIONS

TINY = {
    "dims": (4, 8),
    "depths": (2, 3),
    "stem_dim": 4,
    "head_size": 4,
    "mixer": ("", "window"),
    "window_size": (None, None),
    "table_sizes": (2, 3),
    "num_classes": 5,
}


class MoatSuite(ModelSuite):
    family = "moat"
    # The others differ in widths and depths; all are counted below.
    names = ("moat0_pretrain_224_1k", "tiny_moat0_pretrain_256_no_pe_1k")
    small = (
        ModelCase(
            "tiny_moat0_pretrain_256_1k",
            TINY,
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )
    # A batch norm behind it takes away what is the same everywhere.
    vanishing = r"stem0/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("moat", MoatSuite.names)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("moat0_pretrain_224", 5.7),
        ("moat1_pretrain_224", 9.1),
        ("moat2_finetune_384", 53.8),
        ("moat3_finetune_512", 266.1),
        ("moat4_finetune_512", 640.6),
        ("tiny_moat0_pretrain_256", 1.1),
        ("tiny_moat1_pretrain_256", 1.6),
        ("tiny_moat2_pretrain_256", 3.0),
        ("tiny_moat3_pretrain_256", 6.0),
    ],
)
def test_multiply_adds_are_the_releases(name, published):
    """Without positions, whose tables the release looks up by products; it counts norms too."""
    data = "22k" if "finetune" in name else "1k"
    name = f"{name}_no_pe_{data}"
    model, norms = create_model(name), 0
    side, width = model_info(name).input_size[0] // 2, model.stem_dim
    for dim, depth in zip(model.dims, model.depths, strict=True):
        norms += width * side**2 + 4 * dim * (side**2 + (side // 2) ** 2)
        side, width = side // 2, dim
        norms += (depth - 1) * 9 * dim * side**2
    counted = (default_multiply_adds(name) + norms) / 1e9
    # One percent, and what rounding to the figure printed took away.
    assert counted == pytest.approx(published, abs=0.01 * published + 0.05)


def test_convolutions_cross_windows_where_attention_does_not():
    """In windows that do not shift, a pixel is seen from the next window by the convolutions."""
    fields = {
        "mixer": "window",
        "heads": 1,
        "mlp_hidden": 0,
        "features": 4,
        "mixer_options": {"window": {"window_size": 2, "table_window": 2}},
    }
    block = MoatBlock(**fields)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4))
    params = nn.unbox(jax.jit(block.init)(jax.random.key(1), x))
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)
    params["batch_stats"] = jax.tree.map(jnp.ones_like, params["batch_stats"])

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def seen(kernel):
        """How much each pixel says of that at (1, 1), the last of the first window."""
        conv = {**params["params"]["conv"], "conv": {"kernel": kernel}}
        own = {**params, "params": {**params["params"], "conv": conv}}
        gradient = jax.grad(lambda x: jnp.sum(block.apply(own, x)[0, 1, 1]))(x)
        return jnp.abs(gradient).max(-1)[0]

    kernel = params["params"]["conv"]["conv"]["kernel"]
    window = np.zeros((4, 4), bool)
    window[:2, :2] = True
    alone = seen(kernel.at[0].set(0).at[2].set(0).at[:, 0].set(0).at[:, 2].set(0))
    assert np.all(np.asarray(alone) > 0, where=window)
    np.testing.assert_array_equal(np.asarray(alone)[~window], 0)
    crossing = np.asarray(seen(kernel))
    assert crossing[2, 2] > 0
    assert crossing[1, 2] > 0


@pytest.mark.parametrize("size", [2, 3])
def test_a_halved_map_is_added_to_the_means_of_what_lies_on_it(size):
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 2)).astype(np.float32)
    block = MoatBlock("", 1, 0, features=2, stride=2, pool_size=size)
    actual = block.apply({}, x, method="shortcut")
    # Zeros of a "SAME" window: none before an even side, one before an odd one of three.
    expected = np.zeros((1, 3, 2, 2))
    for row in range(3):
        for column in range(2):
            top = 2 * row - (size - 2)
            left = 2 * column
            cells = x[:, max(top, 0) : top + size, left : left + size]
            expected[:, row, column] = cells.mean((1, 2))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"table_sizes": (2,)}, "expected 2 entries each"),
        ({"head_size": 3}, "head_size=3 does not divide"),
        ({"mixer": ("", "", "window")}, "has 3 names; expected one or 2"),
    ],
)
def test_mistakes(fields, told):
    model = create_model("tiny_moat0_pretrain_256_1k", **{**TINY, **fields})
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
