"""Recurrences over chunks of tokens as Pallas kernels for TPUs, from the equation of one chunk.

    y, S' = chunk(S, q, k, ...)        of a chunk's tokens, S what it enters with

A program takes one head of a row through all chunks and keeps S in the chip's own memory; HBM holds
the arrays, and for the gradient the states between chunks. The backward pass walks from the last
chunk to the first and pulls gradients back through `chunk` itself, in the kernel: a recurrence is
its equation, once. `chunk` has matrices alone, so that the chip's compiler lowers both ways:

    lower(c)[i, j] = 1 where i >= j,   L = exp(lower (a where i > j)),   E = exp(lower a)

Sums of decays are sums of their own terms, never a difference of two.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from scanmax.ops.contract import over_mesh, platform
from scanmax.ops.kernel_parts import row_bytes

# How a kernel holds an array [B, heads or groups, ...] of its call.
TOKENS, ROWS, WEIGHTS = "tokens", "rows", "weights"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A recurrence of which each chunk is `chunk(state, *arrays) -> (y, state)`.

    Attributes:
      name: of the program.
      chunk: of [K, V] in float32 and, for each array, what its kind says; its y is [c, V].
      kinds: of each array, "tokens" [B, G, T, X], of which a program holds [c, X], of its head's
        group; "rows" [B, H, T], [1, c]; "weights" [B, H, X, Y], [X, Y] in all chunks.
      chunk_size: tokens of a chunk, a multiple of 8.
    """

    name: str
    chunk: Callable
    kinds: tuple[str, ...]
    chunk_size: int

    def run(self, arrays, state, dtype):
        """y [B, H, T, V] in `dtype` and the last state [B, H, K, V] in float32.

        Tokens of zeros are put behind the last one: with a decay of 0 they must leave the state.
        """
        at = self.kinds.index(TOKENS)
        length = arrays[at].shape[2]
        pad = -length % self.chunk_size
        if pad:
            arrays = [
                x
                if kind == WEIGHTS
                else jnp.pad(x, [(0, 0), (0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 3))
                for x, kind in zip(arrays, self.kinds)
            ]
        local = functools.partial(_recurrence, self, dtype, platform() == "cpu")
        y, state = over_mesh(local, [state.astype(jnp.float32), *arrays])
        return y[:, :, :length], state

    def vmem_bytes(self, arrays, state, dtype) -> dict[str, int]:
        """What blocks and states take of a chip's own memory, forward and backward.

        Blocks are there twice, so that one is fetched while the other is read; what a chunk's
        equation holds between them comes besides.
        """
        held = self.held(arrays)
        single = jnp.float32
        inner = row_bytes(state.shape[2:], single)
        y = (self.chunk_size, self.width(arrays, state))
        values = sum(row_bytes(x.shape, x.dtype) for x in held) + row_bytes(y, dtype)
        gradients = sum(row_bytes(x.shape, single) for x in held)
        return {
            "forward": 2 * (values + 3 * inner) + inner,
            "backward": 2 * (values + gradients + 3 * inner) + inner,
        }

    def held(self, arrays):
        """What a program holds of each array at a time."""
        shapes = {
            TOKENS: lambda x: (self.chunk_size, x.shape[-1]),
            ROWS: lambda x: (1, self.chunk_size),
            WEIGHTS: lambda x: x.shape[2:],
        }
        return [
            jax.ShapeDtypeStruct(shapes[kind](x), x.dtype) for kind, x in zip(self.kinds, arrays)
        ]

    def width(self, arrays, state) -> int:
        """Numbers of a token's y."""
        one = jax.ShapeDtypeStruct(state.shape[2:], jnp.float32)
        return jax.eval_shape(self.chunk, one, *self.held(arrays))[0].shape[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _recurrence(kernel, dtype, interpret, state, *arrays):
    return _forward(kernel, dtype, interpret, state, *arrays)[:2]


def _keeping(kernel, dtype, interpret, state, *arrays):
    y, last, states = _forward(kernel, dtype, interpret, state, *arrays, keep=True)
    return (y, last), (states, *arrays)


def _backward(kernel, dtype, interpret, kept, gradients):
    states, *arrays = kept
    d_y, d_last = gradients
    at = _Layout(kernel, states[:, :, 0], arrays, d_y.shape[-1], reverse=True)
    d_state, *found = at.call(
        functools.partial(_backward_kernel, kernel),
        [("states", states), ("y", d_y), ("state", d_last), *at.inputs(arrays)],
        [("state", jnp.float32), *at.gradients()],
        interpret,
    )
    found = [at.summed(x, like, kind) for x, like, kind in zip(found, arrays, kernel.kinds)]
    return d_state, *found


_recurrence.defvjp(_keeping, _backward)


def _forward(kernel, dtype, interpret, state, *arrays, keep=False):
    at = _Layout(kernel, state, arrays, kernel.width(arrays, state))
    outputs = [("y", dtype), ("state", jnp.float32)]
    outputs += [("states", jnp.float32)] if keep else []
    return at.call(
        functools.partial(_forward_kernel, kernel),
        [("state", state), *at.inputs(arrays)],
        outputs,
        interpret,
    )


def _forward_kernel(kernel, s_ref, *refs):
    from jax.experimental import pallas as pl

    arrays, (y_ref, last_ref, *states_ref, state_ref) = _split(kernel, refs)

    @pl.when(pl.program_id(2) == 0)
    def start():
        state_ref[...] = s_ref[...]

    state = state_ref[...]
    for ref in states_ref:
        ref[...] = state
    y, state = kernel.chunk(state, *(ref[...] for ref in arrays))
    y_ref[...] = y.astype(y_ref.dtype)
    state_ref[...] = state

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def end():
        last_ref[...] = state_ref[...]


def _backward_kernel(kernel, states_ref, dy_ref, dlast_ref, *refs):
    from jax.experimental import pallas as pl

    arrays, (dstate_ref, *gradient_refs, carry_ref) = _split(kernel, refs)

    @pl.when(pl.program_id(2) == 0)
    def start():
        carry_ref[...] = dlast_ref[...]
        for kind, ref in zip(kernel.kinds, gradient_refs):
            if kind == WEIGHTS:
                ref[...] = jnp.zeros(ref.shape, ref.dtype)

    values = [ref[...] for ref in arrays]
    _, pull = jax.vjp(kernel.chunk, states_ref[...], *values)
    d_state, *gradients = pull((dy_ref[...].astype(jnp.float32), carry_ref[...]))
    for kind, ref, gradient in zip(kernel.kinds, gradient_refs, gradients):
        before = ref[...] if kind == WEIGHTS else 0
        ref[...] = before + gradient.astype(jnp.float32)
    carry_ref[...] = d_state

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def end():
        dstate_ref[...] = carry_ref[...]


def _split(kernel, refs):
    return refs[: len(kernel.kinds)], refs[len(kernel.kinds) :]


class _Layout:
    """Grid and blocks of a call: rows, heads, chunks from first to last or back."""

    def __init__(self, kernel, state, arrays, width, reverse=False):
        self.kernel, self.reverse = kernel, reverse
        self.c = kernel.chunk_size
        self.B, self.H, *self.state = state.shape
        at = kernel.kinds.index(TOKENS)
        self.chunks = arrays[at].shape[2] // self.c
        self.arrays, self.width = arrays, width

    def inputs(self, arrays):
        """Each array as the grid takes it, with its kind and groups."""
        return [
            ((kind, x.shape), x.reshape(self.B, self.H, self.chunks, 1, self.c))
            if kind == ROWS
            else ((kind, x.shape), x)
            for kind, x in zip(self.kernel.kinds, arrays)
        ]

    def gradients(self):
        """Kinds and dtypes of the gradients of the arrays, each head's its own."""
        return [
            ((kind, (self.B, self.H, *x.shape[2:])), jnp.float32)
            for kind, x in zip(self.kernel.kinds, self.arrays)
        ]

    def summed(self, gradient, like, kind):
        """The gradient of an array, over the heads that shared it."""
        if kind == TOKENS and like.shape[1] != self.H:
            groups = like.shape[1]
            parts = (self.B, groups, self.H // groups, *like.shape[2:])
            gradient = gradient.reshape(parts).sum(2)
        return gradient.reshape(like.shape).astype(like.dtype)

    def block(self, kind):
        """The whole array's shape, the block's, and its place of (row, head, chunk)."""
        kind, shape = kind if isinstance(kind, tuple) else (kind, None)
        lead = (self.B, self.H)
        if kind == "y":
            kind, shape = TOKENS, (*lead, self.chunks * self.c, self.width)
        if kind == TOKENS:
            shared = self.H // shape[1]
            block = (None, None, self.c, shape[-1])
            return shape, block, lambda b, h, t: (b, h // shared, t, 0)
        if kind == ROWS:
            shape = (*lead, self.chunks, 1, self.c)
            return shape, (None, None, None, 1, self.c), lambda b, h, t: (b, h, t, 0, 0)
        if kind == "states":
            shape = (*lead, self.chunks, *self.state)
            return shape, (None, None, None, *self.state), lambda b, h, t: (b, h, t, 0, 0)
        inner = self.state if kind == "state" else shape[2:]
        return (*lead, *inner), (None, None, *inner), lambda b, h, t: (b, h, 0, 0)

    def spec(self, kind):
        from jax.experimental import pallas as pl

        _, block, place = self.block(kind)
        if self.reverse:
            return pl.BlockSpec(block, lambda b, h, t: place(b, h, self.chunks - 1 - t))
        return pl.BlockSpec(block, place)

    def call(self, body, inputs, outputs, interpret):
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import tpu as pltpu

        way = "backward" if self.reverse else "forward"
        return pl.pallas_call(
            body,
            grid=(self.B, self.H, self.chunks),
            in_specs=[self.spec(kind) for kind, _ in inputs],
            out_specs=[self.spec(kind) for kind, _ in outputs],
            out_shape=[jax.ShapeDtypeStruct(self.block(kind)[0], dtype) for kind, dtype in outputs],
            scratch_shapes=[pltpu.VMEM(tuple(self.state), jnp.float32)],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary")
            ),
            interpret=interpret,
            name=f"{self.kernel.name}_{way}",
        )(*(x for _, x in inputs))
