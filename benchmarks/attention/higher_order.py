"""Softmax-free attention by landmarks, and third-order attention, against their dense forms."""

import jax.numpy as jnp
import numpy as np

from benchmarks.harness import benchmark
from benchmarks.passes import normal, op_rows
from scanmax import ops


def _soft_matrix(query, value, landmarks=None):
    matrix = ops.soft_attention_matrix(query, landmarks)
    return jnp.einsum("bhts,bshv->bthv", matrix, value)


def _torch_soft(query, value, landmarks):
    """The released equations in torch."""
    import torch

    q, v, m = (x.transpose(1, 2) for x in (query, value, landmarks))

    def kernel(a, b):
        return torch.exp(-(torch.cdist(a, b) ** 2) / (2 * a.shape[-1] ** 0.5))

    p, a = kernel(q, m), kernel(m, m)
    start = 1.8 / a.sum(-1).amax(-1) ** 2
    a = a + 0.01 * torch.eye(a.shape[-1])
    x = start[..., None, None] * a
    for _ in range(20):
        x = 2 * x - x @ a @ x
    return ((p @ x) @ (p.transpose(-1, -2) @ v)).transpose(1, 2)


@benchmark("soft_attention")
def soft_attention(quick: bool):
    """ops.soft_attention by landmarks and exact, against the T x T matrix and torch's equations."""
    for T, heads in [(128, 1)] if quick else [(1024, 4), (3136, 2)]:
        shape = (1, T, heads, 32)
        query, value = normal(shape, shape)
        (landmarks,) = normal((1, 49, heads, 32), scale=2.0, seed=1)
        title, matrix = f"T={T}, {heads} x 32", {"T x T matrix": _soft_matrix}
        yield from op_rows(
            f"{title}, 49 landmarks",
            ops.soft_attention,
            [query, value, landmarks],
            jax_peers=matrix,
            torch_peers={"torch": _torch_soft},
            tolerance=1e-3,
        )
        exact = f"{title}, exact kernel"
        yield from op_rows(exact, ops.soft_attention, [query, value], jax_peers=matrix)


@benchmark("tensor_attention")
def tensor_attention(quick: bool):
    """ops.tensor_attention by blocks against all T^3 weights, and its polynomial against both."""

    def form(name):
        return lambda *arrays: ops.tensor_attention(*arrays, form=name)

    for T, heads in [(32, 1)] if quick else [(196, 2), (256, 1)]:
        yield from op_rows(
            f"T={T}, {heads} x 32",
            form("chunked"),
            normal(*[(1, T, heads, 32)] * 5),
            jax_peers={"all weights": form("parallel")},
            name="chunked",
        )
    # exact gradients at 1024 take a quarter of a minute each
    for T, trains in [(64, True)] if quick else [(512, True), (1024, False)]:
        yield from op_rows(
            f"T={T}, 1 x 8, degree 2",
            ops.tensor_attention_poly,
            # entries so small that degree 2 is right to a percent
            normal(*[(1, T, 1, 8)] * 5, scale=0.5),
            jax_peers={"exact, chunked": form("chunked")},
            training=trains,
            name="polynomial",
            tolerance=0.02,
        )


@benchmark("newton_pinv")
def newton_pinv(quick: bool):
    """ops.newton_pinv of kernels between landmarks against singular values in JAX and torch."""
    import torch

    for batch, M in [(2, 16)] if quick else [(64, 49), (8, 196)]:
        (points,) = normal((batch, M, 32), scale=2.0)
        square = np.square(points[:, :, None] - points[:, None]).sum(-1)
        kernel = np.exp(-square / (2 * 32**0.5)) + 0.01 * np.eye(M, dtype=np.float32)
        yield from op_rows(
            f"{batch} x {M} x {M}",
            ops.newton_pinv,
            [kernel.astype(np.float32)],
            jax_peers={"jnp.linalg.pinv": jnp.linalg.pinv},
            torch_peers={"torch.linalg.pinv": torch.linalg.pinv},
            tolerance=1e-2,
        )
