"""A dense layer as a product of random features of its input and others of its weights."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from scanmax.ops.contract import (
    accumulator_dtype,
    check_choice,
    check_rank,
    check_shape,
    op,
    require,
    spread,
)

TURNS = ("input", "weight", "both")
# Real functions f(z) = int |F(u)| cos(2 pi u z + arg F(u)) du.
SPECTRA = ("cosine", "sine", "gaussian")


@op("num_features", "activation", "dtype")
def fourier_samples(
    key: Key[Array, ""], num_features: int, *, activation: str = "cosine", dtype=jnp.float32
) -> tuple[Float[Array, " M"], Float[Array, " M"], Float[Array, " M"]]:
    """Waves whose mean is an activation: f(z) = E a_m cos(2 pi u_m z + p_m).

        f(z) = int F(u) exp(2 pi i u z) du,    a_m = |F(u_m)| / density(u_m),    p_m = arg F(u_m)

    Of cosine and sine, whose transform F is two points, the frequencies are signs over 2 pi; those
    of exp(-z^2 / 2) are normal of that deviation.

    Args:
      key: a PRNG key.
      num_features: M.
      activation: f, "cosine", "sine" or "gaussian". Of any other f whose transform is known the
        three arrays are made by hand.
      dtype: of the result.

    Returns:
      Frequencies u, amplitudes a and phases p, [M] each.

    Raises:
      ValueError: a number that is not positive, an unknown activation.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from scanmax import ops
      >>> u, a, p = ops.fourier_samples(jax.random.key(0), 3, activation="sine")
      >>> waves = a * jnp.cos(2 * jnp.pi * u * 0.5 + p)
      >>> print(waves.round(2))  # sin(0.5), by either sign
      [0.48 0.48 0.48]

    Reference: snnk
    """
    require(num_features > 0, f"num_features={num_features} must be positive.")
    check_choice("activation", activation, SPECTRA)
    if activation == "gaussian":
        turns = jax.random.normal(key, (num_features,), dtype)
    else:
        turns = jax.random.rademacher(key, (num_features,), dtype)
    phases = jnp.zeros_like(turns)
    if activation == "sine":
        # sin z = cos(z - pi / 2) = cos(-z + pi / 2)
        phases = turns * (-math.pi / 2)
    return turns / (2 * math.pi), jnp.ones_like(turns), phases


def _factor(turns: Array, turn: str, of: str) -> tuple[Array, Array]:
    """Real and imaginary part of what x (or w) is multiplied by; both products are i turns."""
    if turn == "both":
        # A square root of i turns: its parts are of one size.
        half = jnp.sqrt(jnp.abs(turns) / 2)
        return half, jnp.sign(turns) * half
    if turn == of:
        return jnp.zeros_like(turns), turns
    return jnp.ones_like(turns), jnp.zeros_like(turns)


def _exponents(x, projection, turns, *, turn, of, damping, precision):
    """Real and imaginary exponents of exp(-A |g|^2 + sqrt(1 + 4 A) a g . x - a^2 |x|^2 / 2)."""
    real, imaginary = _factor(turns, turn, of)
    dots = jnp.einsum("...k,mk->...m", x, projection, precision=precision)
    dots = dots * math.sqrt(1 + 4 * damping)
    squares = jnp.square(x).sum(-1, keepdims=True) / 2
    real, imaginary = spread(real, dots), spread(imaginary, dots)
    lengths = spread(jnp.square(projection).sum(-1), dots)
    decays = real * dots - (real * real - imaginary * imaginary) * squares - damping * lengths
    return decays, imaginary * dots - 2 * real * imaginary * squares


def _check_waves(projection, dim, name, turn, damping, **waves):
    require(
        projection.ndim == 2 and projection.shape[1] == dim,
        f"projection has shape {projection.shape}; expected [M, {dim}] with {name}.",
    )
    check_choice("turn", turn, TURNS)
    require(damping >= 0, f"damping={damping}; expected at least 0.")
    for wave, array in waves.items():
        check_shape(wave, array, projection.shape[:1], "[M]")


@op("turn", "damping", "precision")
def universal_random_features(
    x: Float[Array, "*B K"],
    projection: Float[Array, "M K"],
    frequencies: Float[Array, " M"],
    *,
    turn: str = "input",
    damping: float = 0.0,
    precision=None,
) -> Float[Array, "*B F"]:
    """Random features of a dense layer's input, whatever its activation.

        phi(x)_m = (1 + 4 A)^(K / 4) exp(-A |g_m|^2 + sqrt(1 + 4 A) a_m g_m . x - a_m^2 |x|^2 / 2)
                   / sqrt(M)

    With psi(w, b) of `universal_random_weights`, where a'_m stands for a_m and a_m a'_m = 2 pi i
    u_m, the mean of Re phi(x) . psi(w, b) over normal g is the mean over the frequencies of
    Re c exp(2 pi i u (w . x + b)), which is f(w . x + b). The variance grows as exp(|x|^2 + |w|^2)
    for frequencies of 1 / (2 pi): inputs and weights are to be short.

    Args:
      x: inputs.
      projection: the g_m, normal.
      frequencies: u, of the activation (`fourier_samples`).
      turn: where the i stands: a_m is 2 pi i u_m for "input" (the released code's), 1 for "weight",
        a square root of 2 pi i u_m for "both", whose variance stays finite for unbounded u.
      damping: A, which takes long g_m off.
      precision: of the matrix product.

    Returns:
      [*B, F] in the dtype of x: real and imaginary parts, F = 2 M, or the real ones alone where all
      are real, F = M for "weight".

    Raises:
      ValueError: arrays whose shapes do not fit, a negative damping, an unknown turn.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from scanmax import ops
      >>> g = jax.random.normal(jax.random.key(0), (20000, 2))
      >>> u, a, p = ops.fourier_samples(jax.random.key(1), 20000)
      >>> phi = ops.universal_random_features(jnp.array([0.6, 0.2]), g, u)
      >>> psi = ops.universal_random_weights(jnp.array([[0.5], [0.5]]), g, u, a, p)
      >>> print(f"{(phi @ psi)[0]:.1f}")  # cos(0.4)
      0.9

    Reference: snnk
    """
    check_rank(1, x=x)
    name = f"x of shape {x.shape}"
    _check_waves(projection, x.shape[-1], name, turn, damping, frequencies=frequencies)
    dtype = accumulator_dtype(x, projection, frequencies)
    decays, angles = _exponents(
        x.astype(dtype),
        projection.astype(dtype),
        2 * math.pi * frequencies.astype(dtype),
        turn=turn,
        of="input",
        damping=damping,
        precision=precision,
    )
    count, dim = projection.shape
    sizes = jnp.exp(decays) * ((1 + 4 * damping) ** (dim / 4) / math.sqrt(count))
    parts = [sizes] if turn == "weight" else [sizes * jnp.cos(angles), sizes * jnp.sin(angles)]
    return jnp.concatenate(parts, -1).astype(x.dtype)


@op("turn", "damping", "precision")
def universal_random_weights(
    kernel: Float[Array, "K L"],
    projection: Float[Array, "M K"],
    frequencies: Float[Array, " M"],
    amplitudes: Float[Array, " M"],
    phases: Float[Array, " M"],
    bias: Float[Array, " L"] | None = None,
    *,
    turn: str = "input",
    damping: float = 0.0,
    precision=None,
) -> Float[Array, "F L"]:
    """Random features of a dense layer's weights, by which those of its input are multiplied.

        psi(w, b)_m = (1 + 4 A)^(K / 4) exp(-A |g_m|^2 + sqrt(1 + 4 A) a'_m g_m . w
                      - a'_m^2 |w|^2 / 2) c_m exp(2 pi i u_m b) / sqrt(M),    c = a exp(i p)

    They are the weights of the layer that takes its place, `universal_random_features` of x times
    this, and may be trained as such: M or 2 M numbers an output in the place of K.

    Args:
      kernel: the weights w of each output.
      projection: the g_m, normal, those of the input.
      frequencies: u.
      amplitudes: a.
      phases: p.
      bias: b; None is 0.
      turn: as for the input: a'_m is 1 for "input", 2 pi i u_m for "weight", the same root of it
        for "both".
      damping: A.
      precision: of the matrix product.

    Returns:
      [F, L] in the dtype of kernel, real parts and negated imaginary ones, F = 2 M, or for "weight"
      the real ones alone, F = M.

    Raises:
      ValueError: arrays whose shapes do not fit, a negative damping, an unknown turn.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from scanmax import ops
      >>> g = jax.random.normal(jax.random.key(0), (6, 3))
      >>> u, a, p = ops.fourier_samples(jax.random.key(1), 6)
      >>> ops.universal_random_weights(jnp.ones((3, 5)), g, u, a, p, jnp.ones(5)).shape
      (12, 5)

    Reference: snnk
    """
    require(kernel.ndim == 2, f"kernel has shape {kernel.shape}; expected [K, L].")
    waves = {"frequencies": frequencies, "amplitudes": amplitudes, "phases": phases}
    name = f"kernel of shape {kernel.shape}"
    _check_waves(projection, kernel.shape[0], name, turn, damping, **waves)
    check_shape("bias", bias, kernel.shape[1:], "[L]")
    dtype = accumulator_dtype(kernel, projection, bias, *waves.values())
    turns = 2 * math.pi * frequencies.astype(dtype)
    decays, angles = _exponents(
        kernel.T.astype(dtype),
        projection.astype(dtype),
        turns,
        turn=turn,
        of="weight",
        damping=damping,
        precision=precision,
    )
    angles = angles + phases.astype(dtype)[None]
    if bias is not None:
        angles = angles + bias.astype(dtype)[:, None] * turns[None]
    count, dim = projection.shape
    scale = (1 + 4 * damping) ** (dim / 4) / math.sqrt(count)
    sizes = jnp.exp(decays) * (scale * amplitudes.astype(dtype))[None]
    parts = [sizes * jnp.cos(angles)]
    parts += [] if turn == "weight" else [-sizes * jnp.sin(angles)]
    return jnp.concatenate(parts, -1).T.astype(kernel.dtype)


@op("floor", "precision")
def relu_random_features(
    x: Float[Array, "*B K"],
    projection: Float[Array, "M K"],
    *,
    floor: float = 0.0,
    precision=None,
) -> Float[Array, "*B M"]:
    """The released ReLU features, of inputs and of weights alike.

        phi(x)_m = max(g_m . x, floor) / sqrt(M)

    They do not estimate ReLU(w . x) but a kernel of its kind: at floor 0 and for normal g the mean
    of phi(x) . phi(w) is the arc-cosine kernel of first order over 2,
    |x| |w| (sin t + (pi - t) cos t) / (2 pi), of the angle t between them.

    Args:
      x: inputs, or the weights of each output as rows.
      projection: the g_m, normal.
      floor: what products are raised to; a negative one lets some of them pass.
      precision: of the matrix product.

    Returns:
      [*B, M] in the dtype of x.

    Raises:
      ValueError: a projection of another width.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.relu_random_features(jnp.array([2.0, -1.0]), jnp.eye(2)).round(3)
      Array([1.414, 0.   ], dtype=float32)

    Reference: snnk
    """
    check_rank(1, x=x)
    require(
        projection.ndim == 2 and projection.shape[1] == x.shape[-1],
        f"projection has shape {projection.shape}; expected [M, K] for x of shape {x.shape}.",
    )
    dtype = accumulator_dtype(x, projection)
    dots = jnp.einsum(
        "...k,mk->...m", x.astype(dtype), projection.astype(dtype), precision=precision
    )
    return (jnp.maximum(dots, floor) / math.sqrt(projection.shape[0])).astype(x.dtype)


@op("precision")
def bundle_dense(
    kernel: Float[Array, "F L"],
    next_kernel: Float[Array, "L O"],
    bias: Float[Array, " L"] | None = None,
    next_bias: Float[Array, " O"] | None = None,
    *,
    precision=None,
) -> tuple[Float[Array, "F O"], Float[Array, " O"]]:
    """One linear map in the place of two: a layer that follows random features, bundled with them.

        (x W + b) V + c = x (W V) + (b V + c)

    Args:
      kernel: W, such as the random features of a layer's weights.
      next_kernel: V, of the layer behind it.
      bias: b; None is 0.
      next_bias: c; None is 0.
      precision: of the products.

    Returns:
      W V and b V + c, in the dtype of kernel.

    Raises:
      ValueError: arrays whose shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> kernel, bias = ops.bundle_dense(jnp.eye(2), jnp.ones((2, 1)), jnp.array([1.0, 2.0]))
      >>> kernel[:, 0], bias
      (Array([1., 1.], dtype=float32), Array([3.], dtype=float32))

    Reference: snnk
    """
    require(kernel.ndim == 2, f"kernel has shape {kernel.shape}; expected [F, L].")
    require(
        next_kernel.ndim == 2 and next_kernel.shape[0] == kernel.shape[1],
        f"next_kernel has shape {next_kernel.shape}; expected [{kernel.shape[1]}, O].",
    )
    check_shape("bias", bias, kernel.shape[1:], "[L]")
    check_shape("next_bias", next_bias, next_kernel.shape[1:], "[O]")
    dtype = accumulator_dtype(kernel, next_kernel, bias, next_bias)
    behind = next_kernel.astype(dtype)
    bundled = jnp.matmul(kernel.astype(dtype), behind, precision=precision)
    shift = jnp.zeros(behind.shape[1:], dtype) if next_bias is None else next_bias.astype(dtype)
    if bias is not None:
        shift = shift + jnp.matmul(bias.astype(dtype), behind, precision=precision)
    return bundled.astype(kernel.dtype), shift.astype(kernel.dtype)


@op("ridge")
def fit_dense(
    x: Float[Array, "S F"], y: Float[Array, "S O"], *, ridge: float = 1e-6
) -> Float[Array, "F O"]:
    """The linear map of features that is nearest to targets, in closed form.

        W = argmin_W  sum_s |y_s - x_s W|^2 + ridge S |W|^2

    A network that is bundled whole is linear in the random features of its input: this is its
    optimum under a square error.

    Args:
      x: features of each sample; a column of ones among them makes a bias.
      y: targets.
      ridge: weighs the size of W; without it there are as many samples as features, or more, which
        do not depend on each other.

    Returns:
      [F, O] in the dtype of y.

    Raises:
      ValueError: arrays whose shapes do not fit, a negative ridge, or none with fewer samples than
        features.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
      >>> ops.fit_dense(x, jnp.array([[3.0], [4.0], [5.0]]), ridge=0.0).round(5)
      Array([[3.],
             [2.]], dtype=float32)

    Reference: snnk
    """
    require(ridge >= 0, f"ridge={ridge}; expected at least 0.")
    require(x.ndim == 2, f"x has shape {x.shape}; expected [S, F].")
    require(
        y.ndim == 2 and len(y) == len(x),
        f"y has shape {y.shape}; expected [S, O] with x of shape {x.shape}.",
    )
    samples, width = x.shape
    require(
        ridge > 0 or samples >= width,
        f"ridge=0 needs as many samples as features; x has shape {x.shape}.",
    )
    dtype = accumulator_dtype(x, y)
    rows, targets = x.astype(dtype), y.astype(dtype)
    if ridge:
        penalty = math.sqrt(ridge * samples) * jnp.eye(width, dtype=dtype)
        rows = jnp.concatenate([rows, penalty])
        targets = jnp.pad(targets, ((0, width), (0, 0)))
    # By an orthogonal basis: the normal equations would square the condition of the features.
    q, r = jnp.linalg.qr(rows)
    return jax.lax.linalg.triangular_solve(r, q.T @ targets, left_side=True).astype(y.dtype)
