"""Time against tokens of the mixers of maps and sequences that claim to be linear in them."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.claims.slopes import slope
from scanmax import ops

ROWS, WIDTH = 32, 40


def arrays(*shapes) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def of_maps(op: Callable, *weights, **options) -> Callable:
    """T -> an op of maps of T pixels, and of weights of those shapes."""

    def make(T):
        given = arrays((ROWS, T // ROWS, WIDTH), *weights)
        return jax.jit(functools.partial(op, **options)), given

    return make


def _shifted(x, *kernels):
    return ops.mix_shift(x, kernels[:5], kernels[5:], distances=(-2, -1, 0, 1, 2))


def _gated(x, gates, *kernels):
    return ops.recursive_gate(x, gates, kernels)


def _tokens(op: Callable, *widths, **options) -> Callable:
    """T -> an op of arrays [T, ...] of those widths."""
    return lambda T: (
        jax.jit(functools.partial(op, **options)),
        arrays(*((T, *width) for width in widths)),
    )


def _global_filter(T):
    columns = T // ROWS
    given = arrays((ROWS, columns, WIDTH), (ROWS, columns // 2 + 1, WIDTH, 2))
    return jax.jit(ops.global_filter), given


def _aggregation(T):
    given = arrays((ROWS, T // ROWS, WIDTH), (ROWS, T // ROWS, WIDTH // 8, 9))
    return jax.jit(ops.small_kernel_aggregation), given


def _deformable(T):
    values, weights = arrays((T, 2, 16), (T, 2, 1, 4))
    places = np.random.default_rng(1).uniform(size=(T, 2, 1, 4, 2)).astype(np.float32)
    shapes = ((ROWS, T // ROWS),)
    op = functools.partial(ops.deformable_attention, level_shapes=shapes)
    return jax.jit(op), [values, places, weights]


def _experts(T):
    x, logits, kernel, out = arrays((T, 32), (T, 8), (8, 32, 64), (8, 64, 32))
    gates = np.asarray(ops.expert_gates(logits, top_k=2))
    return jax.jit(functools.partial(ops.dropless_experts, top_k=2)), [x, gates, kernel, out]


def _memory(T):
    op = functools.partial(ops.product_key_memory, top_k=8)
    return jax.jit(op), arrays((T, 32), (T, 32), (32**2, 32))


_SIDES = [(size, size, 1, WIDTH // 5) for size in (1, 1, 3, 5, 7)]
for _name, _make in {
    "block_mix, 8 x 8": of_maps(ops.block_mix, (64, 64), block_size=(8, 8)),
    "deformable_attention, 4 points": _deformable,
    "dropless_experts, 2 of 8": _experts,
    "dynamic_conv, 7 taps": _tokens(ops.dynamic_conv, (64,), (4, 7)),
    "global_filter": _global_filter,
    "grid_mix, 8 x 8": of_maps(ops.grid_mix, (64, 64), grid_size=(8, 8)),
    "haar_dwt2": of_maps(lambda x: ops.haar_dwt2(x)[0]),
    "inception_depthwise_conv2d": of_maps(
        ops.inception_depthwise_conv2d, (3, 3, 1, 5), (1, 11, 1, 5), (11, 1, 1, 5)
    ),
    "mix_shift": of_maps(_shifted, *_SIDES, *_SIDES),
    "product_key_memory, 8 of 1024": _memory,
    "recursive_gate, order 3": lambda T: (
        jax.jit(_gated),
        arrays((T, 16), (T, 112), (16, 32), (32, 64)),
    ),
    "shift_eight": of_maps(ops.shift_eight),
    "small_kernel_aggregation, 3 x 3": _aggregation,
    "spectral_pooling": of_maps(ops.spectral_pooling, (WIDTH,)),
}.items():
    slope(_name)(_make)
