"""Softmax-free attention, as its equations."""

import jax.numpy as jnp


def newton_pinv(
    matrix, *, num_steps=20, ridge=0.0, start="fixed", gradient="inverse", precision=None
):
    """X_0 = a A^T;  X <- 2 X - X A X."""
    rows = matrix.shape[-2]
    eye = jnp.broadcast_to(jnp.eye(rows, dtype=matrix.dtype), (*matrix.shape[:-1], rows))
    A = matrix + ridge * eye if ridge else matrix
    sized = matrix if start == "fixed" else A
    norm = jnp.linalg.norm(sized, 1, axis=(-2, -1)) * jnp.linalg.norm(sized, jnp.inf, axis=(-2, -1))
    factor = (1.8 if start == "fixed" else 1.998) / norm[..., None, None]
    A_t = jnp.swapaxes(A, -1, -2)
    for _ in range(10 if start == "halved" else 0):
        rest = jnp.linalg.norm(eye - factor * (A @ A_t), 1, axis=(-2, -1))
        factor = jnp.where(rest[..., None, None] > 1.01, factor / 2, factor)
    X = factor * A_t
    for _ in range(num_steps):
        X = 2 * X - X @ A @ X
    return X


def soft_attention(
    query,
    value,
    landmarks=None,
    *,
    normalize=False,
    scale=None,
    num_steps=20,
    ridge=None,
    start=None,
    gradient=None,
    precision=None,
):
    """y = S v."""
    matrix = soft_attention_matrix(
        query,
        landmarks,
        normalize=normalize,
        scale=scale,
        num_steps=num_steps,
        ridge=ridge,
        start=start,
    )
    return jnp.einsum("...hts,...shv->...thv", matrix, value)


def soft_attention_matrix(
    query,
    landmarks=None,
    *,
    normalize=False,
    scale=None,
    num_steps=20,
    ridge=None,
    start=None,
    gradient=None,
    precision=None,
):
    """S = k(q, q), or P A^+ P^T, or P D^-1/2 A^+ D^-1/2 P^T."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale

    def k(a, b):
        a, b = jnp.moveaxis(a, -2, -3), jnp.moveaxis(b, -2, -3)  # [*B, H, T, K]
        differences = a[..., :, None, :] - b[..., None, :, :]
        return jnp.exp(-scale / 2 * jnp.sum(differences**2, -1))

    if landmarks is None:
        return k(query, query)
    P, A = k(query, landmarks), k(landmarks, landmarks)
    ridge = (0.0 if normalize else 0.01) if ridge is None else ridge
    start = ("halved" if normalize else "fixed") if start is None else start
    inverse = newton_pinv(A, num_steps=num_steps, ridge=ridge, start=start)
    if normalize:
        D = jnp.sum(A, -1)
        inverse = inverse / jnp.sqrt(D[..., :, None] * D[..., None, :])
    return P @ inverse @ jnp.swapaxes(P, -1, -2)
