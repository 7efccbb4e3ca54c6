"""The recurrence with a decay per head as a Pallas kernel for TPUs: `recurrence.run` in chunks.

    M_ij = (q_i . k_j) L_ij,  L_ij = exp(sum of a over j < n <= i),  i >= j
    y    = M v + E (q S),     S' = exp(sum a) S + k^T (F v)
    E_i  = exp(a_1 + .. + a_i),   F_j = exp(a_{j+1} + .. + a_c)

A program takes some heads of one group through all chunks of a row, and keeps their states S, the
matrix M and its decays L in the chip's own memory; HBM holds the arrays, and for the gradient the
states between chunks. The backward pass walks from the last chunk to the first:

    dM = dy v^T                       dv = M^T dy + F (k dS')
    dq = (L dM) k + E (dy S^T)        dk = (L dM)^T q + F (v dS'^T)
    dS = exp(sum a) dS' + q^T (E dy)  da_n = sum of W_ij over j < n <= i,   W = M dM

where W has, besides, a column for what the state gives each token, and a row for what each token
gives the next state. Sums of decays are sums of their own terms, never a difference of two: exact
where a decay is -inf, as at the start of a segment.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from scanmax.ops.kernel_parts import column, places, row
from scanmax.ops.kernel_parts import dot as product

# Heads of one program: they share the products of queries and keys.
HEADS = 8


def heads_per_program(heads: int, groups: int) -> int:
    """How many heads one program takes: a divisor of a group's."""
    shared = heads // groups
    return max(count for count in range(1, min(HEADS, shared) + 1) if shared % count == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def chunked(chunk_size, precision, interpret, query, key, value, log_decay, state):
    """y [B, H, T, V] in the dtype of value and the last state [B, H, K, V].

    Args:
      chunk_size: tokens of a chunk, a divisor of T.
      precision: of every matrix product.
      interpret: run on a CPU.
      query: [B, G, T, K].
      key: [B, G, T, K].
      value: [B, H, T, V].
      log_decay: [B, H, T] in float32.
      state: [B, H, K, V] in float32.
    """
    return _forward(chunk_size, precision, interpret, query, key, value, log_decay, state)[:2]


def _chunked_forward(chunk_size, precision, interpret, *arrays):
    y, last, states = _forward(chunk_size, precision, interpret, *arrays, keep=True)
    return (y, last), (*arrays[:4], states)


def _chunked_backward(chunk_size, precision, interpret, kept, gradients):
    return _backward(chunk_size, precision, interpret, *kept, *gradients)


chunked.defvjp(_chunked_forward, _chunked_backward)


def _sums(x, reverse=False):
    """Sums over the rows up to each (from each on, in reverse), by doubling."""
    from jax.experimental.pallas import tpu as pltpu

    size = x.shape[0]
    i = lax.broadcasted_iota(jnp.int32, x.shape, 0)
    step = 1
    while step < size:
        if reverse:
            moved = jnp.where(i < size - step, pltpu.roll(x, size - step, 0), 0.0)
        else:
            moved = jnp.where(i >= step, pltpu.roll(x, step, 0), 0.0)
        x = x + moved
        step *= 2
    return x


def _decays(a):
    """L [c, c], E [c, 1], F [c, 1] and exp(sum a) [1, 1] of the logarithms a [1, c]."""
    i, j = places(a.shape[1])
    sums = _sums(jnp.where(i > j, column(a), 0.0))
    to = sums[:, :1] + a[:, :1]
    return (
        jnp.where(i >= j, jnp.exp(sums), 0.0),
        jnp.exp(to),
        jnp.exp(column(sums[-1:])),
        jnp.exp(to[-1:]),
    )


def _forward_kernel(precision, q_ref, k_ref, v_ref, a_ref, s_ref, *refs):
    from jax.experimental import pallas as pl

    *outputs, state_ref = refs
    y_ref, last_ref = outputs[:2]
    dot = functools.partial(product, precision=precision)

    @pl.when(pl.program_id(2) == 0)
    def start():
        state_ref[...] = s_ref[...]

    q, k = q_ref[...], k_ref[...]
    scores = dot(q, k, (1, 1))
    for head in range(v_ref.shape[0]):
        v, state = v_ref[head], state_ref[head]
        if len(outputs) > 2:
            outputs[2][head] = state
        within, into, out, total = _decays(a_ref[head : head + 1])
        y = dot((scores * within).astype(v.dtype), v, (1, 0))
        y = y + into * dot(q, state.astype(q.dtype), (1, 0))
        y_ref[head] = y.astype(y_ref.dtype)
        update = (out * v.astype(jnp.float32)).astype(v.dtype)
        state_ref[head] = total * state + dot(k, update, (0, 0))

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def end():
        last_ref[...] = state_ref[...]


def _backward_kernel(precision, *refs):
    from jax.experimental import pallas as pl

    q_ref, k_ref, v_ref, a_ref, states_ref, dy_ref, dlast_ref, *refs = refs
    dq_ref, dk_ref, dv_ref, da_ref, dstate_ref, carry_ref = refs
    dot = functools.partial(product, precision=precision)

    @pl.when(pl.program_id(2) == 0)
    def start():
        carry_ref[...] = dlast_ref[...]

    q, k = q_ref[...], k_ref[...]
    scores = dot(q, k, (1, 1))
    i, j = places(scores.shape[0])
    d_scores = jnp.zeros_like(scores)
    d_q, d_k = jnp.zeros(q.shape, jnp.float32), jnp.zeros(k.shape, jnp.float32)
    for head in range(v_ref.shape[0]):
        v, d_y, state, d_next = v_ref[head], dy_ref[head], states_ref[head], carry_ref[head]
        within, into, out, total = _decays(a_ref[head : head + 1])
        d_y = d_y.astype(v.dtype)
        d_matrix = dot(d_y, v, (1, 1)) * within
        d_scores = d_scores + d_matrix
        matrix = (scores * within).astype(v.dtype)
        to_key = out * dot(k, d_next.astype(k.dtype), (1, 0))  # [c, V]
        dv_ref[head] = (dot(matrix, d_y, (0, 0)) + to_key).astype(dv_ref.dtype)
        to_query = into * dot(d_y, state.astype(d_y.dtype), (1, 1))  # [c, K]
        d_q = d_q + to_query
        d_k = d_k + out * dot(v, d_next.astype(v.dtype), (1, 1))
        # the gradient of decays: of all that passes them, from before to after
        read = jnp.sum(to_query * q.astype(jnp.float32), 1, keepdims=True)
        given = jnp.sum(to_key * v.astype(jnp.float32), 1, keepdims=True)
        kept = total * jnp.sum(state * d_next, keepdims=True).reshape(1, 1)
        passed = d_matrix * scores
        passed = passed + jnp.where(i == scores.shape[0] - 1, row(given), 0.0)
        passed = jnp.where(j < i, _sums(passed, reverse=True), 0.0)
        d_a = jnp.sum(passed, 1, keepdims=True) + _sums(read, reverse=True) + kept
        da_ref[head : head + 1] = row(d_a)
        scaled = (into * d_y.astype(jnp.float32)).astype(q.dtype)
        carry_ref[head] = total * d_next + dot(q, scaled, (0, 0))
    d_scores = d_scores.astype(q.dtype)
    dq_ref[...] = d_q + dot(d_scores, k, (1, 0))
    dk_ref[...] = d_k + dot(d_scores, q, (0, 0))

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def end():
        dstate_ref[...] = carry_ref[...]


class _Layout:
    """Grid and blocks of a call: rows, heads of a program, chunks from first to last or back."""

    def __init__(self, query, value, chunk_size, reverse=False):
        self.B, self.G, self.T, self.K = query.shape
        self.H, self.V = value.shape[1], value.shape[-1]
        self.c, self.r = chunk_size, heads_per_program(self.H, self.G)
        self.programs, self.chunks = self.H // self.r, self.T // chunk_size
        self.shared = self.programs // self.G
        self.reverse = reverse

    def chunk(self, t):
        return self.chunks - 1 - t if self.reverse else t

    def spec(self, kind):
        """The block of one program and chunk."""
        from jax.experimental import pallas as pl

        shape, place = {
            "keys": ((None, None, self.c, self.K), lambda b, h, t: (b, h // self.shared, t, 0)),
            "key gradients": ((None, None, self.c, self.K), lambda b, h, t: (b, h, t, 0)),
            "values": ((None, None, self.r, self.c, self.V), lambda b, h, t: (b, h, 0, t, 0)),
            "decays": ((None, None, None, self.r, self.c), lambda b, h, t: (b, h, t, 0, 0)),
            "state": ((None, None, self.r, self.K, self.V), lambda b, h, t: (b, h, 0, 0, 0)),
            "states": (
                (None, None, None, self.r, self.K, self.V),
                lambda b, h, t: (b, h, t, 0, 0, 0),
            ),
        }[kind]
        in_order = kind == "state"
        index = place if in_order else lambda b, h, t: place(b, h, self.chunk(t))
        return pl.BlockSpec(shape, index)

    def shape(self, kind, dtype=jnp.float32):
        """The whole array."""
        lead = (self.B, self.programs)
        sizes = {
            "key gradients": (*lead, self.T, self.K),
            "values": (*lead, self.r, self.T, self.V),
            "decays": (*lead, self.chunks, self.r, self.c),
            "state": (*lead, self.r, self.K, self.V),
            "states": (*lead, self.chunks, self.r, self.K, self.V),
        }[kind]
        return jax.ShapeDtypeStruct(sizes, dtype)

    def by_program(self, x):
        """[B, H, ...] -> [B, programs, r, ...]."""
        return x.reshape(self.B, self.programs, self.r, *x.shape[2:])

    def by_head(self, x):
        """[B, programs, r, ...] -> [B, H, ...]."""
        return x.reshape(self.B, self.H, *x.shape[3:])

    def by_chunk(self, a):
        """[B, H, T] -> [B, programs, chunks, r, c]."""
        return self.by_program(a.reshape(self.B, self.H, self.chunks, self.c)).swapaxes(2, 3)

    def call(self, kernel, name, inputs, outputs, interpret, arrays):
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import tpu as pltpu

        return pl.pallas_call(
            kernel,
            grid=(self.B, self.programs, self.chunks),
            in_specs=[self.spec(kind) for kind in inputs],
            out_specs=[self.spec(kind) for kind, _ in outputs],
            out_shape=[self.shape(*output) for output in outputs],
            scratch_shapes=[pltpu.VMEM((self.r, self.K, self.V), jnp.float32)],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary")
            ),
            interpret=interpret,
            name=name,
        )(*arrays)


def _forward(chunk_size, precision, interpret, query, key, value, log_decay, state, keep=False):
    at = _Layout(query, value, chunk_size)
    outputs = [("values", value.dtype), ("state", jnp.float32)]
    outputs += [("states", jnp.float32)] if keep else []
    y, last, *states = at.call(
        functools.partial(_forward_kernel, precision),
        "decayed_recurrence_forward",
        ("keys", "keys", "values", "decays", "state"),
        outputs,
        interpret,
        (query, key, at.by_program(value), at.by_chunk(log_decay), at.by_program(state)),
    )
    return at.by_head(y), at.by_head(last), *states


def _backward(chunk_size, precision, interpret, query, key, value, log_decay, states, d_y, d_last):
    at = _Layout(query, value, chunk_size, reverse=True)
    d_query, d_key, d_value, d_decay, d_state = at.call(
        functools.partial(_backward_kernel, precision),
        "decayed_recurrence_backward",
        ("keys", "keys", "values", "decays", "states", "values", "state"),
        [
            ("key gradients", jnp.float32),
            ("key gradients", jnp.float32),
            ("values", value.dtype),
            ("decays", jnp.float32),
            ("state", jnp.float32),
        ],
        interpret,
        (
            query,
            key,
            at.by_program(value),
            at.by_chunk(log_decay),
            states,
            at.by_program(d_y),
            at.by_program(d_last),
        ),
    )
    d_query, d_key = (
        x.reshape(at.B, at.G, at.shared, at.T, at.K).sum(2).astype(like.dtype)
        for x, like in ((d_query, query), (d_key, key))
    )
    d_decay = d_decay.swapaxes(2, 3).reshape(log_decay.shape)
    return d_query, d_key, at.by_head(d_value), d_decay, at.by_head(d_state)


def vmem_bytes(
    heads: int, groups: int, dim: int, width: int, chunk_size: int, dtype
) -> dict[str, int]:
    """What blocks and states take of a chip's own memory, forward and backward.

    Blocks are there twice, so that one is fetched while the other is read; rows are as wide as a
    multiple of 128.
    """
    at = _Layout(
        jax.ShapeDtypeStruct((1, groups, chunk_size, dim), dtype),
        jax.ShapeDtypeStruct((1, heads, chunk_size, width), dtype),
        chunk_size,
    )

    def size(kind, dtype):
        shape = [n for n in at.spec(kind).block_shape if n is not None]
        shape[-1] += -shape[-1] % 128
        return math.prod(shape) * jnp.dtype(dtype).itemsize

    single = jnp.float32
    arrays = 2 * size("keys", dtype) + size("values", dtype) + size("decays", single)
    states = 2 * size("state", single) + size("states", single)
    backward = 2 * size("keys", single) + size("values", dtype) + size("decays", single)
    scratch = size("state", single)
    return {
        "forward": 2 * (arrays + size("values", dtype) + states) + scratch,
        "backward": 2 * (arrays + size("values", dtype) + states + backward) + scratch,
    }
