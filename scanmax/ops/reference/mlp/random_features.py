"""Dense layers as products of random features, in complex numbers."""

import jax
import jax.numpy as jnp

from scanmax.ops.contract import accumulator_dtype, align


def fourier_samples(key, num_features, *, activation="cosine", dtype=jnp.float32):
    """u, |F(u)| over the density of u, and arg F(u) of each sample."""
    if activation == "gaussian":
        turns = jax.random.normal(key, (num_features,), dtype)
        transform = [1.0 + 0j] * num_features
    else:
        turns = jax.random.rademacher(key, (num_features,), dtype)
        # (exp(iz) + exp(-iz)) / 2 and (exp(iz) - exp(-iz)) / 2i, each point of density 1 / 2
        transform = [1.0 + 0j if activation == "cosine" else float(sign) / 1j for sign in turns]
    transform = jnp.asarray(transform)
    sizes, angles = jnp.abs(transform).astype(dtype), jnp.angle(transform).astype(dtype)
    return turns / (2 * jnp.pi), sizes, angles


def _complex(*arrays):
    """Arrays whose products are complex."""
    is_double = accumulator_dtype(*arrays) == jnp.float64
    return [array.astype(jnp.complex128 if is_double else jnp.complex64) for array in arrays]


def _factors(frequencies, turn):
    """a and a' of each wave, whose product is 2 pi i u."""
    i_turns = 2j * jnp.pi * frequencies
    one = jnp.ones_like(i_turns)
    root = jnp.sqrt(i_turns)
    return {"input": (i_turns, one), "weight": (one, i_turns), "both": (root, root)}[turn]


def _gaussian(z, g, damping):
    """lambda(z), for which E lambda(z) lambda(z') = exp(z . z') over normal g."""
    grown = (1 + 4 * damping) ** 0.5 * (align(g, z) * z).sum(-1) - (z * z).sum(-1) / 2
    scale = (1 + 4 * damping) ** (g.shape[-1] / 4)
    return scale * jnp.exp(grown - damping * align((g * g).sum(-1), grown))


def universal_random_features(
    x, projection, frequencies, *, turn="input", damping=0.0, precision=None
):
    """phi(x)_m = Gaussian features of a_m x, real parts and then imaginary ones."""
    z, g, u = _complex(x, projection, frequencies)
    a, _ = _factors(u, turn)
    phi = [_gaussian(a[m] * z, g[m], damping) for m in range(len(g))]
    phi = jnp.stack(phi, -1) / len(g) ** 0.5
    parts = [phi.real] if turn == "weight" else [phi.real, phi.imag]
    return jnp.concatenate(parts, -1).astype(x.dtype)


def universal_random_weights(
    kernel,
    projection,
    frequencies,
    amplitudes,
    phases,
    bias=None,
    *,
    turn="input",
    damping=0.0,
    precision=None,
):
    """psi(w, b)_m = Gaussian features of a'_m w times c_m exp(2 pi i u_m b)."""
    bias = jnp.zeros(kernel.shape[1], kernel.dtype) if bias is None else bias
    w, g, u, sizes, angles, b = _complex(
        kernel.T, projection, frequencies, amplitudes, phases, bias
    )
    _, a = _factors(u, turn)
    c = sizes * jnp.exp(1j * angles)
    psi = [
        _gaussian(a[m] * w, g[m], damping) * c[m] * jnp.exp(2j * jnp.pi * u[m] * b)
        for m in range(len(g))
    ]
    psi = jnp.stack(psi) / len(g) ** 0.5
    parts = [psi.real] if turn == "weight" else [psi.real, -psi.imag]
    return jnp.concatenate(parts).astype(kernel.dtype)


def relu_random_features(x, projection, *, floor=0.0, precision=None):
    """phi(x)_m = max(g_m . x, floor) / sqrt(M)."""
    dtype = accumulator_dtype(x, projection)
    rows = x.astype(dtype)[..., None, :]
    dots = (rows * align(projection.astype(dtype), rows)).sum(-1)
    return (jnp.where(dots > floor, dots, floor) / len(projection) ** 0.5).astype(x.dtype)


def bundle_dense(kernel, next_kernel, bias=None, next_bias=None, *, precision=None):
    """W V and b V + c."""
    dtype = accumulator_dtype(kernel, next_kernel, bias, next_bias)
    w, v = kernel.astype(dtype), next_kernel.astype(dtype)
    shift = jnp.zeros(v.shape[1], dtype)
    if bias is not None:
        shift = (bias.astype(dtype)[:, None] * v).sum(0)
    if next_bias is not None:
        shift = shift + next_bias.astype(dtype)
    bundled = (w[:, :, None] * v[None]).sum(1)
    return bundled.astype(kernel.dtype), shift.astype(kernel.dtype)


def fit_dense(x, y, *, ridge=1e-6):
    """(X^T X + ridge S) W = X^T Y."""
    dtype = accumulator_dtype(x, y)
    rows, targets = x.astype(dtype), y.astype(dtype)
    normal = rows.T @ rows + ridge * len(x) * jnp.eye(x.shape[1], dtype=dtype)
    return jnp.linalg.solve(normal, rows.T @ targets).astype(y.dtype)
