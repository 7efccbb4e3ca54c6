"""ConvBERT: the suite of every model, its convolution as a banded matrix, what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_variables

from scanmax.models import create_model
from scanmax.models.language.convbert import ConvBertLayer
from scanmax.testing import ModelCase, ModelSuite

TINY = {"vocab_size": 11, "dim": 8, "embedding_dim": 4, "depth": 2, "heads": 4, "mlp_hidden": 12}
TINY |= {"mlp_groups": 2, "kernel_size": 3, "max_length": 9, "num_classes": 3}


class ConvBertSuite(ModelSuite):
    family = "convbert"
    small = (ModelCase("convbert_medium_small", TINY, input_size=(5,), other_inputs=((1,), (9,))),)
    vanishing = r"block(_\d\d|s)/key/bias"


class Mixed(ConvBertLayer):
    """What a layer mixes, alone."""

    @nn.compact
    def __call__(self, x):
        return self.mix(x, jnp.ones(x.shape[:2], bool))


def test_the_span_convolution_is_a_banded_matrix_whose_rows_are_the_tokens_own():
    layer = Mixed(heads=4, mlp_hidden=1, kernel_size=3)
    x = np.random.default_rng(0).normal(size=(1, 6, 8)).astype(np.float32)
    params = drawn_variables(layer, x)["params"]
    mixed = layer.apply({"params": params}, x)[0]
    assert mixed.shape == (6, 8)

    def linear(name, x):
        kernel = params[name]["kernel"]
        return np.tensordot(x, kernel, 1) + params[name].get("bias", 0)

    padded = np.pad(x[0], ((1, 1), (0, 0)))
    depthwise = params["span_depthwise"]["kernel"][:, 0, 0]
    span = sum(depthwise[w] * padded[w : w + 6] for w in range(3))
    # Two of the four heads are left, each two wide.
    query = linear("query", x[0]).reshape(6, 4)
    taps = np.exp(linear("taps", linear("span_pointwise", span) * query))
    taps /= taps.sum(-1, keepdims=True)
    matrix = np.zeros((2, 6, 6))
    for head in range(2):
        for token in range(6):
            for w in range(3):
                if 0 <= token - 1 + w < 6:
                    matrix[head, token, token - 1 + w] = taps[token, head, w]
    values = linear("conv_value", x[0]).reshape(6, 2, 2)
    expected = np.einsum("hts,shv->thv", matrix, values).reshape(6, 4)
    np.testing.assert_allclose(mixed[:, 4:], expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_is_refused():
    for fields, message in (
        ({"kernel_size": 4}, "kernel_size=4 must be odd"),
        ({"heads": 3}, "heads=3 must divide dim=8"),
        ({"dim": 12, "heads": 4, "head_ratio": 1, "mlp_groups": 1}, "multiple of twice its 4"),
    ):
        model = create_model("convbert_base", **{**TINY, **fields})
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 5), int))
