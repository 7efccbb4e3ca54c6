"""Modal state spaces: a complex diagonal recurrence per channel, and the convolution it is."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    check_choice,
    check_implementation,
    check_rank,
    check_shape,
    op,
    platform,
    require,
    vary_together,
)
from scanmax.ops.conv.long import fft_conv
from scanmax.ops.scan.recurrence import flat_batch
from scanmax.ops.segments import FORMS


@op("return_state", "form", "chunk_size", "precision", "implementation")
def modal_ssm(
    x: Float[Array, "*B T D"],
    log_magnitude: Float[Array, "D N"],
    angle: Float[Array, "D N"],
    residue: Float[Array, "D N 2"],
    *,
    D: Float[Array, " D"] | None = None,
    initial_state: Float[Array, "*B D N 2"] | None = None,
    return_state: bool = False,
    form: str | None = None,
    chunk_size: int = 64,
    precision=None,
    implementation=None,
):
    """A diagonal state space of N complex modes per channel, the recurrence of a distilled filter.

        s_t = lambda s_{t-1} + x_t,   y_t = Re sum_n R_n s_{n,t-1} + D x_t,
        lambda = exp(log_magnitude + i angle)

    It is the causal convolution with h_0 = D, h_t = Re sum_n R_n lambda_n^(t-1) (see
    `modal_ssm_filter`). Modes are N single exponentials: a real filter of order d takes d / 2 of
    them where its poles come in conjugate pairs.

    Args:
      x: the inputs.
      log_magnitude: log |lambda|, at most 0 for a stable filter.
      angle: the angle of lambda, in radians.
      residue: R, its real and its imaginary part last.
      D: h_0, the weight of the token itself; None is 0.
      initial_state: the s before the first token, real and imaginary part last.
      return_state: also return the s after the last token, in accumulator precision.
      form: "recurrent" takes T steps; "chunked" multiplies chunks of tokens by small matrices and
        passes states on; "parallel" is one convolution by FFT, T log T, and a sum for the state.
        None: "recurrent" on CPU, where it is several times faster, else "chunked".
      chunk_size: tokens per chunk.
      precision: of the matrix products of the chunked and parallel form.
      implementation: only "xla".

    Returns:
      [*B, T, D] in the dtype of x; with `return_state` also the state [*B, D, N, 2].

    Raises:
      ValueError: an array of the wrong shape, an unknown form.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import modal_ssm
      >>> pole = jnp.log(jnp.array([[0.5]]))
      >>> modal_ssm(jnp.ones((4, 1)), pole, 0 * pole, jnp.array([[[1.0, 0.0]]]))[:, 0]
      Array([0.  , 1.  , 1.5 , 1.75], dtype=float32)

    Reference: laughing-hyena
    """
    check_choice("form", form, FORMS)
    check_implementation("modal_ssm", implementation, ("xla",))
    check_rank(2, x=x)
    _check(x.shape[-1], log_magnitude, angle, residue, D)
    batch, length, modes = x.shape[:-2], x.shape[-2], (*log_magnitude.shape, 2)
    check_shape("initial_state", initial_state, (*batch, *modes), "[*B, D, N, 2]")
    dtype = accumulator_dtype(x, log_magnitude, angle, residue, D, initial_state)
    if initial_state is None:
        initial_state = jnp.zeros((*batch, *modes), dtype)
    arrays = vary_together(
        *(flat_batch(y.astype(dtype), len(batch)) for y in (x, initial_state)),
        *(y.astype(dtype) for y in (log_magnitude, angle, residue)),
    )
    inputs, state, *poles = arrays
    state = lax.complex(state[..., 0], state[..., 1])
    if form is None:
        form = "recurrent" if platform() == "cpu" else "chunked"
    evaluate = {"recurrent": _recurrent, "parallel": _parallel, "chunked": _chunked}[form]
    y, state = evaluate(inputs, state, *poles, max(1, min(chunk_size, length)), precision)
    y = y.reshape(x.shape)
    if D is not None:
        y = y + align(D.astype(dtype), x) * x.astype(dtype)
    state = jnp.stack([state.real, state.imag], -1).reshape(*batch, *modes)
    return (y.astype(x.dtype), state) if return_state else y.astype(x.dtype)


@op()
def modal_ssm_step(
    state: Float[Array, "*B D N 2"],
    x: Float[Array, "*B D"],
    log_magnitude: Float[Array, "D N"],
    angle: Float[Array, "D N"],
    residue: Float[Array, "D N 2"],
    *,
    D: Float[Array, " D"] | None = None,
):
    """One token of `modal_ssm`, at a cost that does not depend on how many came before.

        y_t = Re sum_n R_n s_{n,t-1} + D x_t,   s_t = lambda s_{t-1} + x_t

    Args:
      state: s_{t-1}; zeros at the start.
      x: the input.
      log_magnitude: log |lambda|.
      angle: the angle of lambda.
      residue: R, its real and its imaginary part last.
      D: the weight of the token itself; None is 0.

    Returns:
      (y [*B, D] in the dtype of x, the next state in accumulator precision).

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import modal_ssm_step
      >>> one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
      >>> y, state = modal_ssm_step(jnp.ones((1, 1, 2)), one[0], zero, zero, jnp.ones((1, 1, 2)))
      >>> y, state
      (Array([0.], dtype=float32), Array([[[2., 1.]]], dtype=float32))

    Reference: laughing-hyena
    """
    check_rank(1, x=x)
    _check(x.shape[-1], log_magnitude, angle, residue, D)
    expected = (*x.shape[:-1], *log_magnitude.shape, 2)
    check_shape("state", state, expected, "[*B, D, N, 2]")
    dtype = accumulator_dtype(state, x, log_magnitude, angle, residue, D)
    poles = (y.astype(dtype) for y in (log_magnitude, angle, residue))
    inputs, state = x.astype(dtype), state.astype(dtype)
    pole, weight = _poles(*poles)
    state = lax.complex(state[..., 0], state[..., 1])
    y = (align(weight, state) * state).real.sum(-1)
    if D is not None:
        y = y + align(D.astype(dtype), x) * inputs
    state = align(pole, state) * state
    state = jnp.stack([state.real + inputs[..., None], state.imag], -1)
    return y.astype(x.dtype), state


@op("length")
def modal_ssm_filter(
    log_magnitude: Float[Array, "D N"],
    angle: Float[Array, "D N"],
    residue: Float[Array, "D N 2"],
    *,
    length: int,
    D: Float[Array, " D"] | None = None,
) -> Float[Array, "T D"]:
    """The first taps of the convolution that `modal_ssm` is.

        h_0 = D,   h_t = Re sum_n R_n lambda_n^(t-1)

    Args:
      log_magnitude: log |lambda|.
      angle: the angle of lambda.
      residue: R, its real and its imaginary part last.
      length: T, how many taps.
      D: the weight of the token itself; None is 0.

    Returns:
      [T, D] in the dtype of the residues.

    Raises:
      ValueError: an array of the wrong shape, a length below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import modal_ssm_filter
      >>> pole = jnp.log(jnp.array([[0.5]]))
      >>> modal_ssm_filter(pole, 0 * pole, jnp.array([[[1.0, 0.0]]]), length=4)[:, 0]
      Array([0.  , 1.  , 0.5 , 0.25], dtype=float32)

    Reference: laughing-hyena
    """
    check_rank(2, log_magnitude=log_magnitude)
    _check(log_magnitude.shape[0], log_magnitude, angle, residue, D)
    require(length >= 1, f"length={length}; expected at least 1.")
    dtype = accumulator_dtype(log_magnitude, angle, residue, D)
    poles = (y.astype(dtype) for y in (log_magnitude, angle, residue))
    taps = _taps(*poles, length - 1, min(64, length))
    first = jnp.zeros_like(taps[:1]) if D is None else D.astype(dtype)[None]
    return jnp.concatenate([first, taps], 0).astype(residue.dtype)


@op("length")
def modal_ssm_matrix(
    log_magnitude: Float[Array, "D N"],
    angle: Float[Array, "D N"],
    residue: Float[Array, "D N 2"],
    *,
    length: int,
    D: Float[Array, " D"] | None = None,
) -> Float[Array, "D T T"]:
    """The matrix over tokens that `modal_ssm` applies to each channel, for small T.

        M_ts = h_{t-s}

    Args:
      log_magnitude: log |lambda|.
      angle: the angle of lambda.
      residue: R, its real and its imaginary part last.
      length: T.
      D: the weight of the token itself; None is 0.

    Returns:
      [D, T, T], lower triangular and constant along diagonals, in the dtype of the residues.

    Raises:
      ValueError: an array of the wrong shape, a length below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import modal_ssm_matrix
      >>> zero = jnp.zeros((1, 1))
      >>> modal_ssm_matrix(zero, zero, jnp.ones((1, 1, 2)), length=2)[0]
      Array([[0., 0.],
             [1., 0.]], dtype=float32)

    Reference: laughing-hyena
    """
    taps = modal_ssm_filter(log_magnitude, angle, residue, length=length, D=D)
    return _toeplitz(taps)


@op()
def hankel_singular_values(filter: Float[Array, "T D"]) -> Float[Array, "D n"]:
    """Singular values of the Hankel matrix of a filter: how much each further mode is worth.

        sigma = singular values of H,   H_ij = h_{1+i+j},   i, j < n = T // 2

    No recurrence of order d comes closer to the filter than sigma_{d+1} in the Hankel norm; a
    filter of order d has d values that are not zero. Tap 0 is the token's own weight and costs no
    state.

    Args:
      filter: taps h_0, h_1, .. of each channel, as of `modal_ssm_filter`.

    Returns:
      [D, T // 2], largest first, in the dtype of filter (at least float32).

    Raises:
      ValueError: fewer than two taps.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import hankel_singular_values
      >>> hankel_singular_values(0.5 ** jnp.arange(5.0)[:, None]).round(4)
      Array([[0.625, 0.   ]], dtype=float32)

    Reference: laughing-hyena
    """
    return jnp.linalg.svd(_hankel(filter), compute_uv=False)


@op("tolerance")
def hankel_order(filter: Float[Array, "T D"], *, tolerance: float = 1e-2):
    """The order that a recurrence needs for a filter: where the Hankel singular values fall off.

        d = number of sigma_i > tolerance * sigma_1

    Args:
      filter: taps h_0, h_1, .. of each channel.
      tolerance: what share of the largest singular value still counts.

    Returns:
      [D] integers; `modal_ssm` with N >= d / 2 modes can hold a filter of conjugate pairs.

    Raises:
      ValueError: fewer than two taps, a tolerance that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax.ops import hankel_order
      >>> hankel_order(0.5 ** jnp.arange(9.0)[:, None])
      Array([1], dtype=int32)

    Reference: laughing-hyena
    """
    require(tolerance > 0, f"tolerance={tolerance}; expected a positive share.")
    values = hankel_singular_values(filter)
    return (values > tolerance * values[:, :1]).sum(-1, dtype=jnp.int32)


def _check(dim, log_magnitude, angle, residue, D):
    check_rank(2, log_magnitude=log_magnitude)
    shape = (dim, log_magnitude.shape[-1])
    check_shape("log_magnitude", log_magnitude, shape, "[D, N]")
    check_shape("angle", angle, shape, "[D, N]")
    check_shape("residue", residue, (*shape, 2), "[D, N, 2]")
    check_shape("D", D, shape[:1], "[D]")


def _hankel(filter):
    """H_ij = h_{1 + i + j} of each channel, [D, n, n]."""
    check_rank(2, filter=filter)
    require(
        filter.ndim == 2 and filter.shape[0] >= 2,
        f"filter has shape {filter.shape}; expected [T, D] with at least two taps.",
    )
    size = filter.shape[0] // 2
    i, j = jnp.ix_(jnp.arange(size), jnp.arange(size))
    return filter.astype(accumulator_dtype(filter)).T[:, 1 + i + j]


def _poles(log_magnitude, angle, residue):
    """lambda and R as complex numbers."""
    return jnp.exp(lax.complex(log_magnitude, angle)), lax.complex(residue[..., 0], residue[..., 1])


def _powers(log_magnitude, angle, exponents):
    """lambda^e, [e, D, N]: the turns taken off the angle first, which keeps its digits."""
    exponents = exponents.astype(angle.dtype)[:, None, None]
    turns = jnp.remainder(exponents * angle[None], 2 * jnp.pi)
    return jnp.exp(lax.complex(exponents * log_magnitude[None], turns))


def _taps(log_magnitude, angle, residue, count, chunk):
    """h_1 .. h_count, [count, D], by products of powers of chunks and within chunks."""
    chunks = -(-count // chunk)
    _, weight = _poles(log_magnitude, angle, residue)
    starts = _powers(log_magnitude, angle, chunk * jnp.arange(chunks)) * weight[None]
    within = _powers(log_magnitude, angle, jnp.arange(chunk))
    taps = _real_dot("adn,cdn->acd", starts, within, lax.Precision.HIGHEST)
    return taps.reshape(-1, weight.shape[0])[:count]


def _real_dot(equation, a, b, precision):
    """The real part of a product of complex arrays."""
    real = jnp.einsum(equation, a.real, b.real, precision=precision)
    return real - jnp.einsum(equation, a.imag, b.imag, precision=precision)


def _toeplitz(taps):
    """[c, D] -> [D, c, c] with taps[i - j] at [i, j], zeros above the diagonal."""
    size = taps.shape[0]
    i, j = jnp.ix_(jnp.arange(size), jnp.arange(size))
    return jnp.where((i >= j)[None], taps.T[:, jnp.maximum(i - j, 0)], 0)


def _recurrent(x, state, log_magnitude, angle, residue, chunk, precision):
    """Token after token; the backward pass keeps one state per chunk."""
    pole, weight = _poles(log_magnitude, angle, residue)

    def token(state, x_t):
        y = (weight[None] * state).real.sum(-1)
        return pole[None] * state + x_t[..., None].astype(state.dtype), y

    whole = x.shape[1] // chunk * chunk
    by_token = x.swapaxes(0, 1)
    chunks = by_token[:whole].reshape(whole // chunk, chunk, *by_token.shape[1:])
    state, y = lax.scan(jax.checkpoint(lambda s, c: lax.scan(token, s, c)), state, chunks)
    state, rest = lax.scan(token, state, by_token[whole:])
    y = jnp.concatenate([lax.collapse(y, 0, 2), rest])
    return y.swapaxes(0, 1), state


def _chunked(x, state, log_magnitude, angle, residue, chunk, precision):
    """Chunks as Toeplitz matrices; states enter and leave them by powers of lambda."""
    batch, length, dim = x.shape
    _, weight = _poles(log_magnitude, angle, residue)
    poles = (log_magnitude, angle, residue)
    taps = jnp.concatenate([jnp.zeros((1, dim), x.dtype), _taps(*poles, chunk - 1, chunk)])
    matrix = _toeplitz(taps)  # [D, c, c]
    powers = _powers(log_magnitude, angle, jnp.arange(chunk + 1))
    read = powers[:-1] * weight[None]  # state -> token
    write = powers[:-1][::-1]  # token -> next state
    whole = length // chunk * chunk

    def one(state, x, matrix, read, write, power):
        y = jnp.einsum("dij,bjd->bid", matrix, x, precision=precision)
        y = y + _real_dot("idn,bdn->bid", read, state, precision)
        parts = (
            jnp.einsum("jdn,bjd->bdn", p, x, precision=precision) for p in (write.real, write.imag)
        )
        return power[None] * state + lax.complex(*parts), y

    def body(state, x):
        return one(state, x, matrix, read, write, powers[-1])

    chunks = x[:, :whole].reshape(batch, whole // chunk, chunk, dim).swapaxes(0, 1)
    state, y = lax.scan(body, state, chunks)
    y = y.swapaxes(0, 1).reshape(batch, whole, dim)
    rest = length - whole
    if rest:
        tail = (matrix[:, :rest, :rest], read[:rest], write[chunk - rest :], powers[rest])
        state, last = one(state, x[:, whole:], *tail)
        y = jnp.concatenate([y, last], 1)
    return y, state


def _parallel(x, state, log_magnitude, angle, residue, chunk, precision):
    """One convolution by FFT; what the first state adds, and the last state, by powers."""
    length = x.shape[1]
    _, weight = _poles(log_magnitude, angle, residue)
    taps = _taps(log_magnitude, angle, residue, length - 1, chunk)
    y = fft_conv(x, jnp.pad(taps, ((1, 0), (0, 0))), form="fft")
    # tokens in chunks from the end, so that lambda^0 meets the last one
    chunks = -(-length // chunk)
    padded = jnp.pad(x, ((0, 0), (chunks * chunk - length, 0), (0, 0)))
    padded = padded.reshape(x.shape[0], chunks, chunk, x.shape[2])
    within = _powers(log_magnitude, angle, jnp.arange(chunk))
    starts = _powers(log_magnitude, angle, chunk * jnp.arange(chunks))

    def leave(carry, inputs):
        x, power = inputs  # [B, c, D], [D, N]
        parts = (
            jnp.einsum("jdn,bjd->bdn", p[::-1], x, precision=precision)
            for p in (within.real, within.imag)
        )
        return carry + power[None] * lax.complex(*parts), None

    whole = _powers(log_magnitude, angle, jnp.array([length]))
    last, _ = lax.scan(leave, whole * state, (padded.swapaxes(0, 1), starts[::-1]))

    def enter(_, power):
        start = power[None] * weight[None] * state
        return None, _real_dot("jdn,bdn->bjd", within, start, precision)

    _, added = lax.scan(enter, None, starts)
    added = lax.collapse(added.swapaxes(0, 1), 1, 3)
    return y + added[:, :length], last
