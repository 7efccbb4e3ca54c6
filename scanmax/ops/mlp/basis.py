"""Functions of one number, many at a time: polynomials, bumps and wavelets for KAN layers."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
)

POLYNOMIALS = ("chebyshev", "legendre", "jacobi", "bernstein")
WAVELETS = ("mexican_hat", "morlet", "dog", "meyer", "shannon", "sinc")


def _stacked(terms: list[Array], dtype) -> Array:
    return jnp.stack(terms, -1).astype(dtype)


@op("kind", "degree", "alpha", "beta")
def polynomial_basis(
    x: Float[Array, "*B D"],
    *,
    kind: str = "chebyshev",
    degree: int = 3,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Float[Array, "*B D N"]:
    """The first n + 1 polynomials of a family, at x.

        chebyshev   P_m = 2 x P_{m-1} - P_{m-2},    P_0 = 1, P_1 = x
        legendre    m P_m = (2 m - 1) x P_{m-1} - (m - 1) P_{m-2}
        jacobi      P_m^(a, b), orthogonal under (1 - x)^a (1 + x)^b
        bernstein   P_m = binomial(n, m) x^m (1 - x)^(n - m), which sum to 1

    The first three are meant for -1 to 1, where tanh brings a number, the last for 0 to 1.

    Args:
      x: the points; nothing is squashed here.
      kind: the family.
      degree: n, the highest.
      alpha: a of "jacobi", above -1; the others have none.
      beta: b of "jacobi", above -1.

    Returns:
      [*B, D, n + 1] in the dtype of x.

    Raises:
      ValueError: an unknown kind, a negative degree, alpha or beta not above -1.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.polynomial_basis(jnp.array([0.5]), kind="chebyshev", degree=2)
      Array([[ 1. ,  0.5, -0.5]], dtype=float32)

    Reference: kan-conv
    """
    check_rank(1, x=x)
    check_choice("kind", kind, POLYNOMIALS)
    require(degree >= 0, f"degree={degree}; expected at least 0.")
    require(alpha > -1 and beta > -1, f"alpha={alpha}, beta={beta}; expected both above -1.")
    y = x.astype(accumulator_dtype(x))
    if kind == "bernstein":
        # Powers as products: a power of 0 has no derivative that a power function finds.
        rising, falling = [jnp.ones_like(y)], [jnp.ones_like(y)]
        for _ in range(degree):
            rising.append(rising[-1] * y)
            falling.append(falling[-1] * (1 - y))
        return _stacked(
            [math.comb(degree, m) * rising[m] * falling[degree - m] for m in range(degree + 1)],
            x.dtype,
        )
    a, b = {"chebyshev": (-0.5, -0.5), "legendre": (0.0, 0.0), "jacobi": (alpha, beta)}[kind]
    terms = [jnp.ones_like(y), y if kind != "jacobi" else ((a - b) + (a + b + 2) * y) / 2]
    for m in range(2, degree + 1):
        if kind == "chebyshev":
            slope, shift, back = 2.0, 0.0, 1.0
        else:
            c = 2 * m + a + b
            under = 2 * m * (m + a + b) * (c - 2)
            slope = c * (c - 1) * (c - 2) / under
            shift = (c - 1) * (a * a - b * b) / under
            back = 2 * (m + a - 1) * (m + b - 1) * c / under
        terms.append((slope * y + shift) * terms[-1] - back * terms[-2])
    return _stacked(terms[: degree + 1], x.dtype)


@op()
def gram_basis(x: Float[Array, "*B D"], weight: Float[Array, "N"]) -> Float[Array, "*B D N"]:
    """Polynomials of a three-term recurrence with learned weights, called Gram's.

        P_m = x P_{m-1} - b_{m-1} P_{m-2},    P_0 = 1, P_1 = x
        b_n = w_n (2 n + 1) n^2 (4 n^2 - 1) / (n + 1)^2

    Args:
      x: the points, in -1 to 1 in the paper, by tanh.
      weight: w of as many numbers as there are polynomials; the first and the last have no part.

    Returns:
      [*B, D, N] in the dtype of x.

    Raises:
      ValueError: when weight is no vector.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.gram_basis(jnp.array([0.5]), jnp.zeros(3))
      Array([[1.  , 0.5 , 0.25]], dtype=float32)

    Reference: kan-conv
    """
    check_rank(1, x=x)
    require(
        weight.ndim == 1 and weight.shape[0] >= 1,
        f"weight has shape {weight.shape}; expected [N], N at least 1.",
    )
    dtype = accumulator_dtype(x, weight)
    y, w = x.astype(dtype), weight.astype(dtype)
    terms = [jnp.ones_like(y), y]
    for n in range(1, weight.shape[0] - 1):
        b = w[n] * ((2 * n + 1) * n**2 * (4 * n**2 - 1) / (n + 1) ** 2)
        terms.append(y * terms[-1] - b * terms[-2])
    return _stacked(terms[: weight.shape[0]], x.dtype)


@op("width")
def radial_basis(
    x: Float[Array, "*B D"], centers: Float[Array, "N"], *, width: float | None = None
) -> Float[Array, "*B D N"]:
    """Gaussian bumps, which look like cubic B-splines and cost one exponential each.

        y_n = exp(-((x - c_n) / width)^2)

    Args:
      x: the points.
      centers: c, shared by the channels.
      width: of a bump; None is the mean distance of neighbouring centers.

    Returns:
      [*B, D, N] in the dtype of x.

    Raises:
      ValueError: when centers is no vector, a width is not positive, or one center has no width.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.radial_basis(jnp.array([1.0]), jnp.array([0.0, 1.0]), width=1000.0).round()
      Array([[1., 1.]], dtype=float32)

    Reference: kan-conv
    """
    check_rank(1, x=x)
    require(centers.ndim == 1, f"centers has shape {centers.shape}; expected [N].")
    require(
        width > 0 if width is not None else centers.shape[0] > 1,
        f"width={width}; expected a positive number, which may be None for two centers or more.",
    )
    dtype = accumulator_dtype(x, centers)
    c = centers.astype(dtype).reshape((1,) * x.ndim + (-1,))
    step = width if width is not None else (c[..., -1:] - c[..., :1]) / (c.shape[-1] - 1)
    return jnp.exp(-jnp.square((x.astype(dtype)[..., None] - c) / step)).astype(x.dtype)


@op("width")
def switch_basis(
    x: Float[Array, "*B D"], centers: Float[Array, "N"], *, width: float = 0.33
) -> Float[Array, "*B D N"]:
    """Bumps that are the slope of a switch, tanh, reflected at their centers.

        y_n = 1 - tanh((x - c_n) / width)^2

    Args:
      x: the points.
      centers: c, shared by the channels.
      width: of a bump.

    Returns:
      [*B, D, N] in the dtype of x.

    Raises:
      ValueError: when centers is no vector, or a width is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.switch_basis(jnp.array([2.0]), jnp.array([-2.0, 2.0])).round()
      Array([[0., 1.]], dtype=float32)

    Reference: mlp-kan
    """
    check_rank(1, x=x)
    require(centers.ndim == 1, f"centers has shape {centers.shape}; expected [N].")
    require(width > 0, f"width={width}; expected a positive number.")
    dtype = accumulator_dtype(x, centers)
    c = centers.astype(dtype).reshape((1,) * x.ndim + (-1,))
    # 1 - tanh^2 cancels far from the center: the square of the secant does not.
    decay = jnp.exp(-2 * jnp.abs(x.astype(dtype)[..., None] - c) / width)
    return (4 * decay / jnp.square(1 + decay)).astype(x.dtype)


def _meyer_window(v: Array) -> Array:
    t = jnp.clip(2 * v - 1, 0, 1)
    rise = t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)
    return jnp.cos(jnp.pi / 2 * rise)


@op("kind")
def wavelet_basis(
    x: Float[Array, "*B D"],
    translation: Float[Array, "D N"],
    scale: Float[Array, "D N"],
    *,
    kind: str = "mexican_hat",
) -> Float[Array, "*B D N"]:
    """N wavelets of every channel, each with its own place and width.

        y_n = psi((x - translation_n) / scale_n)

        mexican_hat   2 / (sqrt(3) pi^(1/4)) (u^2 - 1) exp(-u^2 / 2)
        morlet        cos(5 u) exp(-u^2 / 2)
        dog           -u exp(-u^2 / 2)
        meyer         sin(pi |u|) w(|u|), w falls from 1 at 1/2 to 0 at 1
        sinc          sin(u) / u
        shannon       sinc times a Hamming window over the channels, as the released code has it

    Args:
      x: the points.
      translation: where a wavelet lies.
      scale: how wide it is.
      kind: psi.

    Returns:
      [*B, D, N] in the dtype of x.

    Raises:
      ValueError: translation or scale is not [D, N], or an unknown kind.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.wavelet_basis(jnp.zeros(1), jnp.array([[0.0]]), jnp.ones((1, 1)), kind="morlet")
      Array([[1.]], dtype=float32)

    Reference: kan-conv
    """
    check_rank(1, x=x)
    check_choice("kind", kind, WAVELETS)
    require(
        translation.ndim == 2 and translation.shape[0] == x.shape[-1],
        f"translation has shape {translation.shape}; expected [{x.shape[-1]}, N].",
    )
    check_shape("scale", scale, translation.shape, "[D, N]")
    dtype = accumulator_dtype(x, translation, scale)
    shape = (1,) * (x.ndim - 1) + translation.shape
    places, sizes = translation.astype(dtype).reshape(shape), scale.astype(dtype).reshape(shape)
    u = (x.astype(dtype)[..., None] - places) / sizes
    if kind in ("shannon", "sinc"):
        y = jnp.sinc(u / jnp.pi)
        if kind == "shannon":
            window = jnp.hamming(x.shape[-1]).astype(dtype)
            y = y * window.reshape((1,) * (x.ndim - 1) + (-1, 1))
    elif kind == "meyer":
        size = jnp.abs(u)
        y = jnp.sin(jnp.pi * size) * _meyer_window(size)
    else:
        bump = jnp.exp(-jnp.square(u) / 2)
        hat = 2 / (math.sqrt(3) * math.pi**0.25)
        gains = {"mexican_hat": lambda: hat * (u * u - 1), "morlet": lambda: jnp.cos(5 * u)}
        y = bump * gains.get(kind, lambda: -u)()
    return y.astype(x.dtype)
