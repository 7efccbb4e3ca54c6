"""What recurrences with a matrix state do where no form is named: one pass is not the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops.contract import platform

LENGTH, HEADS = 130, 2


def arrays(dim):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(LENGTH, HEADS, dim)) / dim**0.5 for _ in range(3))
    a = -rng.exponential(size=(LENGTH, HEADS, dim))
    return [jnp.asarray(x, jnp.float32) for x in (q, k, v, a)]


def wkv6(q, k, v, a, **options):
    return ops.wkv6(q, k, v, a, jnp.ones(q.shape[1:]), **options)


CALLS = {
    "no decay": lambda q, k, v, a, **o: ops.linear_attention(q, k, v, **o),
    "head": lambda q, k, v, a, **o: ops.linear_attention(q, k, v, log_decay=a[..., 0], **o),
    "channel": lambda q, k, v, a, **o: ops.linear_attention(q, k, v, log_decay=a, **o),
    "both ways": lambda q, k, v, a, **o: ops.linear_attention(
        q, k, v, log_decay=a, is_causal=False, **o
    ),
    "ssd": lambda q, k, v, a, **o: ops.ssd(v, -a[..., 0], -jnp.ones(HEADS), k, q, **o),
    "wkv6": wkv6,
    "delta": lambda q, k, v, a, **o: ops.delta_rule(
        q, k, v, jax.nn.sigmoid(a[..., 0]), log_decay=a[..., 0], **o
    ),
}


# Program for program: where the forward pass alone goes token by token, in one loop, and chunks.
TOKENS = {"form": "recurrent", "chunk_size": LENGTH}
CHUNKS = {"form": "chunked"}


def loss(call, **options):
    return lambda *x: jnp.sin(call(*x, **options)).sum()


@pytest.mark.parametrize("name", list(CALLS))
def test_on_cpu_forward_alone_goes_token_by_token_and_training_in_chunks(name):
    call, inputs = CALLS[name], arrays(4)
    expected, other = (TOKENS, CHUNKS) if platform() == "cpu" else (CHUNKS, TOKENS)
    y, expected, other = (
        jax.jit(functools.partial(call, **options))(*inputs) for options in ({}, expected, other)
    )
    np.testing.assert_array_equal(y, expected)
    assert bool((y != other).any())  # rounding tells them apart
    trained, chunked = (
        jax.jit(jax.value_and_grad(loss(call, **options), (0, 1, 2, 3)))(*inputs)
        for options in ({}, CHUNKS)
    )
    jax.tree.map(np.testing.assert_array_equal, trained, chunked)


@pytest.mark.parametrize("name", ["head", "delta"])
def test_large_states_are_passed_on_by_chunks(name):
    call, inputs = CALLS[name], arrays(72)
    y, chunked = (jax.jit(functools.partial(call, **o))(*inputs) for o in ({}, CHUNKS))
    np.testing.assert_array_equal(y, chunked)


@pytest.mark.parametrize("name", ["head", "wkv6", "delta"])
def test_derivatives_of_any_mode_and_order(name):
    with jax.enable_x64(True):
        inputs = [x.astype(jnp.float64) for x in arrays(3)]
        along = [jnp.cos(x) for x in inputs]

        def derivatives(form):
            function = loss(CALLS[name], form=form)

            def slope(*x):
                return jax.jvp(function, x, tuple(along))[1]

            return jax.jit(lambda *x: (slope(*x), jax.grad(slope)(*x)))(*inputs)

        jax.tree.map(
            lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-11),
            derivatives(None),
            derivatives("recurrent"),
        )
