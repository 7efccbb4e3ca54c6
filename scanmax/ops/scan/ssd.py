"""State-space duality: the Mamba-2 scan with one decay per head, causal and non-causal."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_implementation,
    check_rank,
    check_shape,
    op,
    require,
    require_causal_states,
    spread,
)
from scanmax.ops.scan.diagonal import pair_decays
from scanmax.ops.scan.recurrence import (
    backend_of,
    flat_batch,
    forget,
    repeat_groups,
    run,
    run_both_ways,
    step,
)
from scanmax.ops.segments import FORMS, quarantine, same_segment, spoil, spoil_rows, spoil_state

# Which group of B and C a head of `nc_ssd` reads.
GROUP_ORDERS = ("blocks", "turns")
# Not static: a traced scalar will do.
Scalar = Float[Array, ""] | float


@op(
    *("dt_softplus", "is_causal", "return_state"),
    *("form", "chunk_size", "precision", "implementation"),
)
def ssd(
    x: Float[Array, "*B T H P"],
    dt: Float[Array, "*B T H"],
    A: Float[Array, " H"],
    B: Float[Array, "*B T G N"],
    C: Float[Array, "*B T G N"],
    *,
    D: Float[Array, " H"] | None = None,
    dt_bias: Float[Array, " H"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[Scalar, Scalar] | None = None,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
    initial_state: Float[Array, "*B H N P"] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 64,
    precision=None,
    implementation=None,
):
    """State-space duality, the scan of Mamba-2: a selective state space with one decay per head.

        S_t = exp(dt_t A) * S_{t-1} + dt_t * B_t (x) x_t,    y_t = S_t^T C_t + D x_t

    It is `linear_attention` with q = C, k = B, v = dt * x and log_decay = dt * A, causal or not;
    the products of B and C are taken once per group.

    Args:
      x: the inputs, H heads of width P.
      dt: the step sizes, per head.
      A: the rates, negative.
      B: input vectors; the G groups divide the heads, which share them in order.
      C: output vectors, shaped as `B`.
      D: skip weights per head.
      dt_bias: added to dt first.
      dt_softplus: then dt = softplus(dt).
      dt_limit: then dt is clipped to (lowest, highest).
      is_causal: read the past and the token itself; else both sides: what lies ahead reaches the
        token by the same recurrence from the last token on, and the token itself counts once.
      segment_ids: packed sequences: where the number changes from a token to the next a new one
        starts, and nothing passes.
      initial_state: the S before the first token, of the first segment; causal only.
      return_state: also return the S after the last token, of the last segment, in accumulator
        precision.
      form: "recurrent" takes T steps, "chunked" T / chunk_size, "parallel" builds the T x T matrix.
        None: "parallel" up to chunk_size tokens, else "chunked"; but on CPU, where no gradient is
        taken and N P is at most 64 * 64, "recurrent", which is faster there.
      chunk_size: tokens per chunk.
      precision: of every matrix product, as in jax.lax.dot_general.
      implementation: "xla" (also None), or "pallas": a kernel for TPUs that keeps the matrix of a
        chunk in the chip's own memory; causal, chunked, of bfloat16 or float32, in chunks of a
        multiple of 128 tokens. On a CPU it is interpreted, to check results by.

    Returns:
      [*B, T, H, P] in the dtype of x; with `return_state` also the state [*B, H, N, P].

    Raises:
      ValueError: an array of the wrong shape, an unknown form, a state without is_causal.
      NotImplementedError: a named implementation that cannot serve; the message says why.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import ssd
      >>> x = B = C = jnp.ones((3, 1, 1))
      >>> ssd(x, jnp.ones((3, 1)), jnp.log(jnp.array([0.5])), B, C)[:, 0, 0]
      Array([1.  , 1.5 , 1.75], dtype=float32)

    Reference: mamba2-ssd
    """
    check_choice("form", form, FORMS)
    _check(x, dt, A, B, C, D, dt_bias, 3)
    batch, (heads, width), states = x.shape[:-3], x.shape[-2:], B.shape[-1]
    require_causal_states(is_causal, initial_state, return_state)
    check_shape("initial_state", initial_state, (*batch, heads, states, width), "[*B, H, N, P]")
    check_shape("segment_ids", segment_ids, x.shape[:-2], "[*B, T]")
    (x, dt, B, C), initial_state, spoiled = quarantine(
        segment_ids, (x, dt, B, C), state=initial_state, factors=4, is_causal=is_causal
    )
    dtype = accumulator_dtype(x, dt, A, B, C, initial_state)
    backend = backend_of("ssd", implementation, form, is_causal, dtype, x, B, C)
    dt = time_steps(dt, dt_bias, dt_softplus, dt_limit, dtype)
    log_decay = dt * spread(A.astype(dtype), dt)

    def decays(reverse):
        given = log_decay if segment_ids is None else forget(log_decay, segment_ids, reverse)
        return flat_batch(given, len(batch))

    inputs = [flat_batch(y, len(batch)) for y in (C, B, x)]
    options = {"form": form, "chunk_size": chunk_size, "precision": precision, "dtype": dtype}
    options["weight"] = flat_batch(dt, len(batch))
    if is_causal:
        initial_state = flat_batch(initial_state, len(batch))
        y, state = run(*inputs, decays(False), initial_state, **options, backend=backend)
    else:
        y = run_both_ways(*inputs, (decays(False), decays(True)), **options)
    y = spoil(_skip(y.reshape(x.shape), x, D), spoiled)
    if not return_state:
        return y
    return y, spoil_state(state.reshape(*batch, heads, states, width), spoiled)


@op("dt_softplus", "precision")
def ssd_step(
    state: Float[Array, "*B H N P"],
    x: Float[Array, "*B H P"],
    dt: Float[Array, "*B H"],
    A: Float[Array, " H"],
    B: Float[Array, "*B G N"],
    C: Float[Array, "*B G N"],
    *,
    D: Float[Array, " H"] | None = None,
    dt_bias: Float[Array, " H"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[Scalar, Scalar] | None = None,
    precision=None,
):
    """One token of `ssd`.

        S_t = exp(dt_t A) * S_{t-1} + dt_t * B_t (x) x_t,    y_t = S_t^T C_t + D x_t

    Args:
      state: S_{t-1}; zeros at the start.
      x: the input.
      dt: the step size, per head.
      A: the rates, negative.
      B: the input vector of each group.
      C: the output vector of each group.
      D: skip weights per head.
      dt_bias: added to dt first.
      dt_softplus: then dt = softplus(dt).
      dt_limit: then dt is clipped to (lowest, highest).
      precision: of the matrix product.

    Returns:
      (y [*B, H, P] in the dtype of x, the next state in accumulator precision).

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import ssd_step
      >>> x = B = C = jnp.ones((1, 1))
      >>> y, state = ssd_step(jnp.ones((1, 1, 1)), x, jnp.ones(1), jnp.zeros(1), B, C)
      >>> y
      Array([[2.]], dtype=float32)

    Reference: mamba2-ssd
    """
    _check(x, dt, A, B, C, D, dt_bias, 2)
    check_shape("state", state, (*x.shape[:-1], *B.shape[-1:], x.shape[-1]), "[*B, H, N, P]")
    dtype = accumulator_dtype(x, dt, A, B, C, state)
    dt = time_steps(dt, dt_bias, dt_softplus, dt_limit, dtype)
    y, state = step(
        state.astype(dtype),
        C,
        B,
        x,
        dt * align(A.astype(dtype), dt),
        weight=dt,
        precision=precision,
    )
    return _skip(y, x, D), state


@op("dt_softplus", "is_causal", "precision")
def ssd_matrix(
    dt: Float[Array, "*B T H"],
    A: Float[Array, " H"],
    B: Float[Array, "*B T G N"],
    C: Float[Array, "*B T G N"],
    *,
    D: Float[Array, " H"] | None = None,
    dt_bias: Float[Array, " H"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[Scalar, Scalar] | None = None,
    is_causal: bool = True,
    segment_ids: Int[Array, "*B T"] | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens that `ssd` applies to x: the hidden attention, for small T.

        M_ij = C_i . B_j exp(A sum of dt over the tokens next to j up to i) dt_j + D [i = j]

    Args:
      dt: the step sizes, per head.
      A: the rates, negative.
      B: input vectors.
      C: output vectors.
      D: skip weights per head.
      dt_bias: added to dt first.
      dt_softplus: then dt = softplus(dt).
      dt_limit: then dt is clipped to (lowest, highest).
      is_causal: lower triangular; else the tokens of both sides weigh.
      segment_ids: packed sequences; blocks on the diagonal.
      precision: of the matrix product.

    Returns:
      [*B, H, T, T] in the dtype of C.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import ssd_matrix
      >>> B = C = jnp.ones((2, 1, 1))
      >>> ssd_matrix(jnp.ones((2, 1)), jnp.log(jnp.array([0.5])), B, C)[0]
      Array([[1. , 0. ],
             [0.5, 1. ]], dtype=float32)

    Reference: hidden-mamba-attention
    """
    _check(jax.ShapeDtypeStruct((*dt.shape, 1), dt.dtype), dt, A, B, C, D, dt_bias, 3)
    check_shape("segment_ids", segment_ids, B.shape[:-2], "[*B, T]")
    (dt, B, C), _, spoiled = quarantine(segment_ids, (dt, B, C), factors=4, is_causal=is_causal)
    dtype = accumulator_dtype(dt, A, B, C, D)
    dt = time_steps(dt, dt_bias, dt_softplus, dt_limit, dtype)
    dt = jnp.swapaxes(dt, -1, -2)  # [*B, H, T]
    decay = pair_decays(dt * align(A.astype(dtype), dt, 1), is_causal)
    if segment_ids is not None:
        decay = jnp.where(same_segment(segment_ids)[..., None, :, :], decay, 0)
    scores = _scores(B, C, dt.shape[-2], dtype, precision)
    matrix = with_skip(scores * decay * dt[..., None, :], D)
    return spoil_rows(matrix, spoiled).astype(C.dtype)


@op("dt_softplus", "positive", "group_order", "precision", "implementation")
def nc_ssd(
    x: Float[Array, "*B T H P"],
    dt: Float[Array, "*B T H"],
    A: Float[Array, " H"],
    B: Float[Array, "*B T G N"],
    C: Float[Array, "*B T G N"],
    *,
    D: Float[Array, " H"] | None = None,
    dt_bias: Float[Array, " H"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[Scalar, Scalar] | None = None,
    positive: bool = True,
    group_order: str = "blocks",
    precision=None,
    implementation=None,
):
    """Non-causal state-space duality (VSSD): every token reads one sum over all tokens.

        S = sum_j w_j B_j (x) x_j,    y_i = S^T C_i + D x_i,    w_j = -dt_j A  or  dt_j A

    The decay between tokens is dropped, and with it their order; each keeps its own weight. The
    released models take the positive weights -dt * A; the formula as printed, dt * A, has them
    negative, as A is.

    Args:
      x: the inputs, H heads of width P.
      dt: the step sizes, per head.
      A: the rates, negative.
      B: input vectors; the G groups divide the heads, which share them in order.
      C: output vectors, shaped as `B`.
      D: skip weights per head.
      dt_bias: added to dt first.
      dt_softplus: then dt = softplus(dt).
      dt_limit: then dt is clipped to (lowest, highest).
      positive: weights -dt * A (True) or dt * A.
      group_order: which group head h reads: "blocks", h // (H / G), as in `ssd`; or "turns",
        h mod G, as VSSD's released code deals them (its models have one group).
      precision: of every matrix product.
      implementation: only "xla".

    Returns:
      [*B, T, H, P] in the dtype of x.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import nc_ssd
      >>> x = B = C = jnp.ones((3, 1, 1))
      >>> nc_ssd(x, jnp.ones((3, 1)), -jnp.ones(1), B, C)[:, 0, 0]
      Array([3., 3., 3.], dtype=float32)

    Reference: vssd
    """
    check_implementation("nc_ssd", implementation, ("xla",))
    check_choice("group_order", group_order, GROUP_ORDERS)
    _check(x, dt, A, B, C, D, dt_bias, 3)
    dtype = accumulator_dtype(x, dt, A, B, C)
    weight = _token_weights(dt, A, dt_bias, dt_softplus, dt_limit, positive, dtype)
    (heads, width), groups = x.shape[-2:], B.shape[-2]
    values = (x.astype(dtype) * weight[..., None]).astype(x.dtype)
    sizes = (groups, heads // groups) if group_order == "blocks" else (heads // groups, groups)
    values = values.reshape(*x.shape[:-2], *sizes, width)
    if group_order == "turns":
        values = jnp.swapaxes(values, -3, -2)
    options = {"precision": precision, "preferred_element_type": dtype}
    state = jnp.einsum("...tgn,...tgrp->...gnrp", B, values, **options)
    y = jnp.einsum("...tgn,...gnrp->...tgrp", C, state.astype(C.dtype), **options)
    if group_order == "turns":
        y = jnp.swapaxes(y, -3, -2)
    return _skip(y.reshape(x.shape), x, D)


@op("dt_softplus", "positive", "group_order", "precision")
def nc_ssd_matrix(
    dt: Float[Array, "*B T H"],
    A: Float[Array, " H"],
    B: Float[Array, "*B T G N"],
    C: Float[Array, "*B T G N"],
    *,
    D: Float[Array, " H"] | None = None,
    dt_bias: Float[Array, " H"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[Scalar, Scalar] | None = None,
    positive: bool = True,
    group_order: str = "blocks",
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens that `nc_ssd` applies to x, for small T.

        M_ij = C_i . B_j w_j + D [i = j],    w_j = -dt_j A  or  dt_j A

    Args:
      dt: the step sizes, per head.
      A: the rates, negative.
      B: input vectors.
      C: output vectors.
      D: skip weights per head.
      dt_bias: added to dt first.
      dt_softplus: then dt = softplus(dt).
      dt_limit: then dt is clipped to (lowest, highest).
      positive: weights -dt * A (True) or dt * A.
      group_order: "blocks" or "turns", as in `nc_ssd`.
      precision: of the matrix product.

    Returns:
      [*B, H, T, T] in the dtype of C.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import nc_ssd_matrix
      >>> B = C = jnp.ones((2, 1, 1))
      >>> nc_ssd_matrix(jnp.array([[1.0], [2.0]]), -jnp.ones(1), B, C)[0]
      Array([[1., 2.],
             [1., 2.]], dtype=float32)

    Reference: vssd
    """
    _check(jax.ShapeDtypeStruct((*dt.shape, 1), dt.dtype), dt, A, B, C, D, dt_bias, 3)
    dtype = accumulator_dtype(dt, A, B, C, D)
    check_choice("group_order", group_order, GROUP_ORDERS)
    weight = _token_weights(dt, A, dt_bias, dt_softplus, dt_limit, positive, dtype)
    scores = _scores(B, C, dt.shape[-1], dtype, precision, group_order)
    matrix = scores * jnp.swapaxes(weight, -1, -2)[..., None, :]
    return with_skip(matrix, D).astype(C.dtype)


def time_steps(dt, dt_bias, dt_softplus, dt_limit, dtype):
    """Bias, softplus and limits, in accumulator precision."""
    dt = dt.astype(dtype)
    if dt_bias is not None:
        dt = dt + spread(dt_bias.astype(dtype), dt)
    if dt_softplus:
        dt = jax.nn.softplus(dt)
    return dt if dt_limit is None else jnp.clip(dt, *dt_limit)


def _token_weights(dt, A, dt_bias, dt_softplus, dt_limit, positive, dtype):
    weight = time_steps(dt, dt_bias, dt_softplus, dt_limit, dtype)
    weight = weight * spread(A.astype(dtype), weight)
    return -weight if positive else weight


def _scores(B, C, heads, dtype, precision, group_order="blocks"):
    scores = jnp.einsum(
        "...ign,...jgn->...gij", C.astype(dtype), B.astype(dtype), precision=precision
    )
    if group_order == "turns":
        return jnp.concatenate([scores] * (heads // B.shape[-2]), -3)
    return repeat_groups(scores, heads, -3)


def with_skip(matrix, D):
    """Adds D to the diagonal of [*B, H, T, T]."""
    if D is None:
        return matrix
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return matrix + align(D.astype(matrix.dtype), matrix, 2) * align(eye, matrix)


def _skip(y, x, D):
    if D is not None:
        y = y + spread(D.astype(y.dtype), x, 1) * x.astype(y.dtype)
    return y.astype(x.dtype)


def _check(x, dt, A, B, C, D, dt_bias, rank):
    """Refuses wrong shapes; rank 3 with time, 2 without."""
    check_rank(rank, x=x, B=B)
    time = "T, " if rank == 3 else ""
    heads, groups = x.shape[-2], B.shape[-2]
    check_shape("dt", dt, x.shape[:-1], f"[*B, {time}H] of x")
    check_shape("B", B, (*x.shape[:-2], *B.shape[-2:]), f"[*B, {time}G, N] beside x")
    check_shape("C", C, B.shape, "the shape of B")
    for name, array in (("A", A), ("D", D), ("dt_bias", dt_bias)):
        check_shape(name, array, (heads,), "[H]")
    require(
        heads % groups == 0,
        f"x has shape {x.shape}: its {heads} heads are not a multiple of the {groups} groups of B, "
        f"which has shape {B.shape}.",
    )
