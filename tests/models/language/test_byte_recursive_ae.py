"""The recursive auto-encoder of bytes: the suite of every model, layers, one set of weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.testing import ModelCase, ModelSuite

TINY = {"vocab_size": 6, "dim": 6, "depth": 2, "base": 2, "branch_scale": 1.0}


class ByteRecursiveAeSuite(ModelSuite):
    family = "byte_recursive_ae"
    # Counted by the list of layers below.
    names = ("byte_recursive_ae_2",)
    small = (ModelCase("byte_recursive_ae_2", TINY, (5,), other_inputs=((1,), (9,))),)


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_layers_and_parameters_are_those_of_the_list(depth):
    name = f"byte_recursive_ae_{depth}"
    model = create_model(name)
    conv, wide, linear = 3 * 256**2 + 256, 3 * 256 * 512 + 512, 1024**2 + 1024
    counted = 2 * depth * linear + (4 * depth - 1) * conv + wide
    assert counted == model_info(name).params
    assert model.layers(1024) == {2: 40, 4: 80, 8: 160}[depth]
    assert [model.levels(length) for length in (1, 4, 5, 8, 9, 1024)] == [0, 0, 1, 1, 2, 8]


def test_parameters_do_not_depend_on_the_length():
    """Those made for one length, even one without recursion, are those of another."""
    model = create_model("byte_recursive_ae_2", **TINY)
    short, long = (
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, length), jnp.int32))
        for length in (1, 16)
    )
    assert jax.tree.map(jnp.shape, nn.unbox(short)) == jax.tree.map(jnp.shape, nn.unbox(long))


def test_it_is_what_the_layers_say_by_numpy():
    """Recursion by hand, level by level with one set of weights, in float64."""
    model = create_model("byte_recursive_ae_2", **TINY, param_dtype=jnp.float64, dtype=jnp.float64)
    tokens = np.array([[1, 5, 0, 2, 3, 4, 2]])
    with jax.enable_x64(True):
        params = nn.unbox(model.init(jax.random.key(0), jnp.asarray(tokens)))["params"]
        found = model.apply({"params": params}, jnp.asarray(tokens))
    params = jax.tree.map(np.asarray, params)

    def layer(x, own):
        kernel, bias = own["kernel"], own["bias"]
        if kernel.ndim == 2:
            return x @ kernel + bias
        padded = np.pad(x, ((1, 1), (0, 0)))
        return sum(padded[i : i + len(x)] @ kernel[i, 0] for i in range(3)) + bias

    def pair(x, name, expands=False, bends=True):
        y = layer(x, params[name]["layer1"])
        if expands:
            y, x = y.reshape(2 * len(x), -1), np.repeat(x, 2, axis=0)
        y = x + layer(np.maximum(y, 0), params[name]["layer2"])
        return np.maximum(y, 0) if bends else y

    x = pair(np.eye(6)[np.append(tokens[0], 0)], "encoder_prefix_0")
    for _ in range(2):
        x = pair(x, "encoder_recursion_0").reshape(-1, 2, 6).max(1)
    code = pair(x.reshape(-1), "encoder_postfix_0", bends=False)
    x = pair(code, "decoder_prefix_0").reshape(2, 6)
    for _ in range(2):
        x = pair(x, "decoder_recursion_0", expands=True)
    expected = pair(x, "decoder_postfix_0", bends=False)[:7]
    np.testing.assert_allclose(found[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "told"), [({"depth": 3}, "come in pairs"), ({"base": 3}, "a power of two")]
)
def test_mistakes(fields, told):
    model = create_model("byte_recursive_ae_2", **{**TINY, **fields})
    with pytest.raises(UserError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
