"""Softmax-free attention: a Gaussian kernel, Nystrom factors, a pseudo-inverse by Newton."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.attention.dot_product import dot_product_attention, scale_of
from scanmax.ops.attention.normalizer import Normalizer
from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)

STARTS = ("fixed", "halved")
GRADIENTS = ("inverse", "pinv", "unrolled")
# start="halved": how often the start may be halved, and the norm that ends it.
HALVINGS, CONTRACTING = 10, 1.01


@op("num_steps", "ridge", "start", "gradient", "precision")
def newton_pinv(
    matrix: Float[Array, "*B M N"],
    *,
    num_steps: int = 20,
    ridge: float = 0.0,
    start: str = "fixed",
    gradient: str = "inverse",
    precision=None,
) -> Float[Array, "*B N M"]:
    """Moore-Penrose inverse by Newton's iteration: matrix products only.

        A = matrix + ridge I;   X_0 = a A^T;   X <- 2 X - X A X,   a < 2 / (|A|_1 |A|_inf)

    A singular value s is inverted up to the factor 1 - (1 - a s^2)^(2^num_steps): values below
    about |A| / 1000 count as partly zero after 20 steps. With Y the result and G its cotangent, the
    gradient is -Y^T G Y^T, which needs no step of the iteration, or, for gradient="pinv",

        -Y^T G Y^T + (I - A Y) G^T Y Y^T + Y^T Y G^T (I - Y A)

    which is the derivative at any constant rank; both agree where the iteration has converged to
    an inverse.

    Args:
      matrix: the matrices; square unless gradient="pinv".
      num_steps: of the iteration.
      ridge: added to the diagonal of square matrices.
      start: "fixed": a = 1.8 / (|matrix|_1 |matrix|_inf), as released for SOFT: its norms are taken
        before the ridge is added. "halved": the bound less a
        thousandth, halved (ten times at most) while |I - A X_0|_1 > 1.01, as released for SOFT++;
        the bound itself, as in the paper, inverts a single landmark to 0. There one factor serves
        the whole batch; here each matrix has its own, so that no example depends on another.
      gradient: "inverse", the paper's; "pinv"; or "unrolled", through all steps, which keeps
        num_steps matrices.
      precision: of every matrix product; None is the highest.

    Returns:
      The pseudo-inverses, in the dtype of matrix.

    Raises:
      ValueError: fewer than two axes, a matrix that has to be square and is not, an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.newton_pinv(jnp.array([[4.0, 0.0], [0.0, 2.0]]))
      Array([[0.25, 0.  ],
             [0.  , 0.5 ]], dtype=float32)

    Reference: soft-softmax-free
    """
    check_rank(2, matrix=matrix)
    check_choice("start", start, STARTS)
    check_choice("gradient", gradient, GRADIENTS)
    require(
        matrix.shape[-2] == matrix.shape[-1] or (gradient != "inverse" and not ridge),
        f"matrix has shape {matrix.shape}; a ridge and gradient='inverse' need square matrices.",
    )
    require(num_steps >= 0, f"num_steps={num_steps} is negative.")
    precision = lax.Precision.HIGHEST if precision is None else precision
    plan = _Newton(num_steps, ridge, start, gradient, precision)
    accurate = matrix.astype(accumulator_dtype(matrix))
    if gradient == "unrolled":
        return _pinv_forward(plan, accurate)[0].astype(matrix.dtype)
    return _pinv(plan, accurate).astype(matrix.dtype)


@op("normalize", "num_steps", "ridge", "start", "gradient", "precision")
def soft_attention(
    query: Float[Array, "*B T H K"],
    value: Float[Array, "*B T H V"],
    landmarks: Float[Array, "*B M H K"] | None = None,
    *,
    normalize: bool = False,
    scale: Float[Array, ""] | float | None = None,
    num_steps: int = 20,
    ridge: float | None = None,
    start: str | None = None,
    gradient: str | None = None,
    precision=None,
) -> Float[Array, "*B T H V"]:
    """Softmax-free attention: a Gaussian kernel between queries, which are the keys too.

        k(a, b) = exp(-scale / 2 |a - b|^2),   P = k(q, landmarks),   A = k(landmarks, landmarks)
        y = P A^+ P^T v,   or with `normalize`   y = P D^-1/2 A^+ D^-1/2 P^T v,   D = diag(A 1)

    A^+ is `newton_pinv`. Time and memory are linear in T for a fixed number of landmarks. Without
    landmarks y = k(q, q) v exactly: T^2 in time, and beyond 256 tokens by blocks, so that memory
    stays linear. Rows are not normalised.

    Args:
      query: queries and keys in one.
      value: the values.
      landmarks: M tokens in the queries' space that stand for all; None for the exact kernel.
      normalize: the symmetric normalisation of SOFT++; it belongs to landmarks.
      scale: of the squared distances; None is K ** -0.5.
      num_steps: Newton steps of A^+.
      ridge: added to A's diagonal before it is inverted. None: 0.01, or 0 with `normalize`, as
        released; the paper has none.
      start: of the iteration, see `newton_pinv`. None: "fixed", or "halved" with `normalize`, as
        released.
      gradient: of A^+, see `newton_pinv`. None: "inverse", as in the paper, or "unrolled" with
        `normalize`, as released.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: an array of the wrong shape, an unknown name, `normalize` without landmarks.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> q, v = jnp.array([0.0, 1.0]).reshape(2, 1, 1), jnp.ones((2, 1, 1))
      >>> ops.soft_attention(q, v)[:, 0, 0]  # 1 + exp(-1/2)
      Array([1.6065307, 1.6065307], dtype=float32)

    Reference: soft-softmax-free
    """
    _check(query, landmarks, normalize)
    check_rank(3, value=value)
    expected = (*query.shape[:-1], value.shape[-1])
    check_shape("value", value, expected, "[*B, T, H, V] beside query")
    dtype = accumulator_dtype(query, value, landmarks)
    if landmarks is None:
        rows, columns = _augmented(query.astype(dtype))
        y = dot_product_attention(
            rows,
            columns,
            value.astype(dtype),
            scale=scale_of(scale, query),
            normalizer=_Exponential(),
            precision=precision,
        )
        return y.astype(value.dtype)
    kernel, inverse = _factors(
        query, landmarks, normalize, scale, num_steps, ridge, start, gradient, precision, dtype
    )
    values = value.astype(dtype)
    read = jnp.einsum("...htm,...thv->...hmv", kernel, values, precision=precision)
    mixed = jnp.einsum("...hmn,...hnv->...hmv", inverse, read, precision=precision)
    y = jnp.einsum("...htm,...hmv->...thv", kernel, mixed, precision=precision)
    return y.astype(value.dtype)


@op("normalize", "num_steps", "ridge", "start", "gradient", "precision")
def soft_attention_matrix(
    query: Float[Array, "*B T H K"],
    landmarks: Float[Array, "*B M H K"] | None = None,
    *,
    normalize: bool = False,
    scale: Float[Array, ""] | float | None = None,
    num_steps: int = 20,
    ridge: float | None = None,
    start: str | None = None,
    gradient: str | None = None,
    precision=None,
) -> Float[Array, "*B H T T"]:
    """The matrix over tokens that `soft_attention` applies to its values, for small T.

        S = k(q, q),   or   P A^+ P^T,   or   P D^-1/2 A^+ D^-1/2 P^T

    Args:
      query: queries and keys in one.
      landmarks: as in `soft_attention`, like all that follow.
      normalize: the symmetric normalisation.
      scale: of the squared distances; None is K ** -0.5.
      num_steps: Newton steps.
      ridge: added to A's diagonal.
      start: of the iteration.
      gradient: of A^+.
      precision: of every matrix product.

    Returns:
      [*B, H, T, T] in the dtype of query; symmetric, rows do not sum to one.

    Raises:
      ValueError: an array of the wrong shape, an unknown name, `normalize` without landmarks.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.soft_attention_matrix(jnp.array([0.0, 2.0]).reshape(2, 1, 1), scale=jnp.log(2.0))[0]
      Array([[1.  , 0.25],
             [0.25, 1.  ]], dtype=float32)

    Reference: soft-softmax-free
    """
    _check(query, landmarks, normalize)
    dtype = accumulator_dtype(query, landmarks)
    if landmarks is None:
        matrix = _kernel(query.astype(dtype), query.astype(dtype), scale, precision)
        return matrix.astype(query.dtype)
    kernel, inverse = _factors(
        query, landmarks, normalize, scale, num_steps, ridge, start, gradient, precision, dtype
    )
    left = jnp.einsum("...htm,...hmn->...htn", kernel, inverse, precision=precision)
    matrix = jnp.einsum("...htn,...hsn->...hts", left, kernel, precision=precision)
    return matrix.astype(query.dtype)


def _check(query, landmarks, normalize):
    check_rank(3, query=query, landmarks=landmarks)
    require(
        landmarks is not None or not normalize,
        "normalize=True belongs to the form with landmarks; landmarks is None.",
    )
    if landmarks is not None:
        *batch, _, heads, width = query.shape
        expected = (*batch, landmarks.shape[-3], heads, width)
        check_shape("landmarks", landmarks, expected, "[*B, M, H, K]")
        require(
            landmarks.shape[-3] > 0,
            f"landmarks has shape {landmarks.shape}; expected at least one landmark.",
        )


@dataclasses.dataclass(frozen=True)
class _Exponential(Normalizer):
    """exp(l), not divided: the logits are minus squared distances, so it never overflows."""

    normalized: ClassVar[bool] = False
    counts_keys: ClassVar[bool] = False

    def score(self, logits, level, num_keys):
        return jnp.exp(logits)


def _augmented(x):
    """Rows r_i and columns c_j with r_i . c_j = -|x_i - x_j|^2 / 2."""
    half = -jnp.sum(x * x, -1, keepdims=True) / 2
    one = jnp.ones_like(half)
    return jnp.concatenate([x, half, one], -1), jnp.concatenate([x, one, half], -1)


def _kernel(rows, columns, scale, precision):
    """exp(-scale / 2 |a - b|^2), [*B, H, T, M]."""
    dots = jnp.einsum("...thk,...mhk->...htm", rows, columns, precision=precision)
    squares = [jnp.moveaxis(jnp.sum(x * x, -1), -1, -2) for x in (rows, columns)]  # [*B, H, T]
    distances = squares[0][..., :, None] + squares[1][..., None, :] - 2 * dots
    return jnp.exp(scale_of(scale, rows).astype(dots.dtype) * -0.5 * distances)


def _factors(
    query, landmarks, normalize, scale, num_steps, ridge, start, gradient, precision, dtype
):
    """P [*B, H, T, M] and the middle factor [*B, H, M, M]."""
    query, landmarks = query.astype(dtype), landmarks.astype(dtype)
    kernel = _kernel(query, landmarks, scale, precision)
    gram = _kernel(landmarks, landmarks, scale, precision)
    inverse = newton_pinv(
        gram,
        num_steps=num_steps,
        ridge=(0.0 if normalize else 0.01) if ridge is None else ridge,
        start=("halved" if normalize else "fixed") if start is None else start,
        gradient=("unrolled" if normalize else "inverse") if gradient is None else gradient,
        precision=precision,
    )
    if normalize:
        root = lax.rsqrt(jnp.sum(gram, -1))
        inverse = root[..., :, None] * inverse * root[..., None, :]
    return kernel, inverse


@dataclasses.dataclass(frozen=True)
class _Newton:
    """The static part of a pseudo-inverse."""

    num_steps: int
    ridge: float
    start: str
    gradient: str
    precision: object

    def dot(self, *factors):
        return functools.reduce(functools.partial(jnp.matmul, precision=self.precision), factors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pinv(plan, matrix):
    return _pinv_forward(plan, matrix)[0]


def _pinv_forward(plan, matrix):
    given = matrix
    if plan.ridge:
        matrix = matrix + plan.ridge * _eye_like(matrix)
    sizes = jnp.abs(given if plan.start == "fixed" else matrix)
    norms = jnp.max(jnp.sum(sizes, -1), -1) * jnp.max(jnp.sum(sizes, -2), -1)
    norms = jnp.where(norms == 0, jnp.ones_like(norms), norms)[..., None, None]
    transposed = jnp.swapaxes(matrix, -1, -2)
    if plan.start == "fixed":
        x = 1.8 / norms * transposed
    else:
        x = 1.998 / norms * transposed
        product = plan.dot(matrix, x)
        eye = _eye_like(product)

        def halve(_, factor):
            rest = jnp.max(jnp.sum(jnp.abs(eye - factor * product), -2), -1)[..., None, None]
            return jnp.where(rest > CONTRACTING, factor / 2, factor)

        x = x * lax.fori_loop(0, HALVINGS, halve, jnp.ones_like(norms))

    def step(_, x):
        return 2 * x - plan.dot(x, matrix, x)

    x = lax.fori_loop(0, plan.num_steps, step, x)
    return x, (matrix, x)


def _pinv_backward(plan, residuals, cotangent):
    matrix, y = residuals
    y_t, g_t = jnp.swapaxes(y, -1, -2), jnp.swapaxes(cotangent, -1, -2)
    gradient = -plan.dot(y_t, cotangent, y_t)
    if plan.gradient == "pinv":
        outside, inside = plan.dot(matrix, y), plan.dot(y, matrix)
        outside, inside = _eye_like(outside) - outside, _eye_like(inside) - inside
        gradient = gradient + plan.dot(outside, g_t, y, y_t) + plan.dot(y_t, y, g_t, inside)
    return (gradient,)


_pinv.defvjp(_pinv_forward, _pinv_backward)


def _eye_like(x):
    eye = jnp.eye(*x.shape[-2:], dtype=x.dtype)
    return jnp.broadcast_to(eye.reshape((1,) * (x.ndim - 2) + eye.shape), x.shape)
