"""Recurrences: diagonal, with a decay, and with the delta rule, against token after token."""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from benchmarks.peers import import_peer
from scanmax import ops

LENGTHS = (256, 1024, 4096, 16384)
# The naive forms keep a state per token for the gradient: 1 GiB of them at 16384 tokens.
NAIVE = 4096
HEADS, WIDTH = 4, 64


def _by_token(step):
    """A recurrence [1, T, ...] as a plain scan over its tokens, gradients by autodiff."""

    def scan(*arrays):
        state = jnp.zeros((1, HEADS, arrays[0].shape[-1], arrays[2].shape[-1]), jnp.float32)

        def token(state, inputs):
            y, state = step(state, *inputs)
            return state, y

        _, y = lax.scan(token, state, [x.swapaxes(0, 1) for x in arrays])
        return y.swapaxes(0, 1)

    return scan


def _linear_step(state, query, key, value, log_decay):
    decay = jnp.exp(log_decay)
    decay = decay.reshape(decay.shape + (1,) * (state.ndim - decay.ndim))
    state = decay * state + key[..., None] * value[..., None, :]
    return jnp.einsum("bhk,bhkv->bhv", query, state), state


def _delta_step(state, query, key, value, beta, log_decay):
    state = jnp.exp(log_decay)[..., None, None] * state
    write = beta[..., None] * (value - jnp.einsum("bhk,bhkv->bhv", key, state))
    state = state + key[..., None] * write[..., None, :]
    return jnp.einsum("bhk,bhkv->bhv", query, state), state


def _diagonal(decay, x):
    def token(h, inputs):
        a, b = inputs
        h = a * h + b
        return h, h

    by_time = (decay.swapaxes(0, 1), x.swapaxes(0, 1))
    return lax.scan(token, jnp.zeros_like(x[:, 0]), by_time)[1].swapaxes(0, 1)


def _heads(length, channels=False):
    """query, key of norm one, value, beta in (0, 1), log_decay of some hundred tokens."""
    query, key, value = normal(*[(1, length, HEADS, WIDTH)] * 3)
    rng = np.random.default_rng(1)
    beta = rng.uniform(size=(1, length, HEADS)).astype(np.float32)
    shape = (1, length, HEADS, WIDTH) if channels else beta.shape
    log_decay = (-0.01 * rng.exponential(size=shape)).astype(np.float32)
    return query / 8, key / np.linalg.norm(key, axis=-1, keepdims=True), value, beta, log_decay


@benchmark("diagonal_scan")
def diagonal_scan(quick: bool):
    """ops.diagonal_scan and its forms against a plain scan with autodiff, 512 channels."""
    for length in (256,) if quick else LENGTHS:
        rng = np.random.default_rng(0)
        decay = rng.uniform(0.5, 1, size=(1, length, 512)).astype(np.float32)
        (x,) = normal((1, length, 512))
        forms = {
            form: functools.partial(ops.diagonal_scan, form=form)
            for form in ("chunked", "parallel")
        }
        yield from op_rows(
            f"diagonal_scan, T={length}, 512 channels",
            ops.diagonal_scan,
            [decay, x],
            jax_peers={"plain scan": _diagonal, **forms},
        )


@benchmark("decay")
def decay(quick: bool):
    """ops.linear_attention with decays, per head and per channel, against a plain scan, float32."""
    for length in (128,) if quick else LENGTHS:
        for label, channels in (("head", False), ("channel", True)):
            query, key, value, _, log_decay = _heads(length, channels)
            yield from op_rows(
                f"decay per {label}, T={length}, {HEADS} x {WIDTH}",
                lambda q, k, v, a: ops.linear_attention(q, k, v, log_decay=a),
                [query, key, value, log_decay],
                jax_peers={"plain scan": _by_token(_linear_step)} if length <= NAIVE else {},
                tolerance=1e-3,
            )


@benchmark("delta_rule")
def delta_rule(quick: bool):
    """ops.delta_rule, gated, against a plain scan and transformers' chunks in torch, float32."""
    module = import_peer("transformers.models.qwen3_next.modeling_qwen3_next")

    def chunks(query, key, value, beta, log_decay):
        # its own scale is 1 / sqrt K
        y, _ = module.torch_chunk_gated_delta_rule(
            query * WIDTH**0.5, key, value, g=log_decay, beta=beta
        )
        return y

    for length in (128,) if quick else LENGTHS:
        yield from op_rows(
            f"gated delta rule, T={length}, {HEADS} x {WIDTH}",
            lambda q, k, v, b, a: ops.delta_rule(q, k, v, b, log_decay=a),
            _heads(length),
            jax_peers={"plain scan": _by_token(_delta_step)} if length <= NAIVE else {},
            torch_peers={"transformers, chunked": chunks},
            tolerance=1e-3,
        )
