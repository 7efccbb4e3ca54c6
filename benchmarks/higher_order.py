"""Softmax-free attention by landmarks, and third-order attention, against their dense forms."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from scanmax import ops


def _trained(function):
    """The value and the gradients of every array, for a cotangent given last."""

    def value_and_gradients(*arrays):
        *arrays, cotangent = arrays
        y, pull_back = jax.vjp(function, *arrays)
        return y, *pull_back(cotangent)

    return value_and_gradients


def _normals(count, T, heads, width, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (scale * rng.normal(size=(1, T, heads, width))).astype(np.float32) for _ in range(count)
    ]


def _soft_matrix(query, value, landmarks=None):
    matrix = ops.soft_attention_matrix(query, landmarks)
    return jnp.einsum("bhts,bshv->bthv", matrix, value)


def _torch_soft(query, value, landmarks):
    """The released equations in torch, forward."""
    import torch

    q, v, m = (to_torch(x).transpose(1, 2).contiguous() for x in (query, value, landmarks))

    def kernel(a, b):
        return torch.exp(-(torch.cdist(a, b) ** 2) / (2 * a.shape[-1] ** 0.5))

    def forward():
        with torch.no_grad():
            p, a = kernel(q, m), kernel(m, m)
            start = 1.8 / a.sum(-1).amax(-1) ** 2
            a = a + 0.01 * torch.eye(a.shape[-1])
            x = start[..., None, None] * a
            for _ in range(20):
                x = 2 * x - x @ a @ x
            return (p @ x) @ (p.transpose(-1, -2) @ v)

    return forward


def _in_our_layout(y):
    return y.transpose(1, 2)


@benchmark("soft_attention")
def soft_attention(quick: bool):
    """ops.soft_attention by landmarks and exact, against the T x T matrix and torch's equations."""
    for T, heads in [(128, 1)] if quick else [(1024, 4), (3136, 2)]:
        query, value, cotangent = _normals(3, T, heads, 32)
        (landmarks,) = _normals(1, 49, heads, 32, 2.0, seed=1)
        arrays = (query, value, landmarks)
        title = f"T={T}, {heads} x 32"
        yield Row(
            f"{title}, 49 landmarks, forward",
            ours=jax_contender("scanmax", ops.soft_attention, *arrays),
            peers=[
                jax_contender("T x T matrix", _soft_matrix, *arrays),
                torch_contender("torch", _torch_soft(*arrays), result=_in_our_layout),
            ],
        )
        yield Row(
            f"{title}, 49 landmarks, forward and gradients",
            ours=jax_contender("scanmax", _trained(ops.soft_attention), *arrays, cotangent),
            peers=[jax_contender("T x T matrix", _trained(_soft_matrix), *arrays, cotangent)],
            tolerance=1e-3,
        )
        for name, wrap, extra in (
            ("forward", lambda f: f, ()),
            ("forward and gradients", _trained, (cotangent,)),
        ):
            yield Row(
                f"{title}, exact kernel, {name}",
                ours=jax_contender("scanmax", wrap(ops.soft_attention), query, value, *extra),
                peers=[jax_contender("T x T matrix", wrap(_soft_matrix), query, value, *extra)],
            )


@benchmark("tensor_attention")
def tensor_attention(quick: bool):
    """ops.tensor_attention by blocks against all T^3 weights, and its polynomial against both."""

    def form(name):
        return lambda *arrays: ops.tensor_attention(*arrays, form=name)

    for T, heads in [(32, 1)] if quick else [(196, 2), (256, 1)]:
        *arrays, cotangent = _normals(6, T, heads, 32)
        for name, wrap, inputs in (
            ("forward", lambda f: f, arrays),
            ("forward and gradients", _trained, [*arrays, cotangent]),
        ):
            yield Row(
                f"T={T}, {heads} x 32, {name}",
                ours=jax_contender("chunked", wrap(form("chunked")), *inputs),
                peers=[jax_contender("all weights", wrap(form("parallel")), *inputs)],
            )
    # exact gradients at 1024 take a quarter of a minute each
    for T, trains in [(64, True)] if quick else [(512, True), (1024, False)]:
        # entries so small that degree 2 is right to a percent
        *arrays, cotangent = _normals(6, T, 1, 8, 0.5)
        for name, wrap, inputs in (
            ("forward", lambda f: f, arrays),
            ("forward and gradients", _trained, [*arrays, cotangent]),
        )[: 1 + trains]:
            yield Row(
                f"T={T}, 1 x 8, degree 2, {name}",
                ours=jax_contender("polynomial", wrap(ops.tensor_attention_poly), *inputs),
                peers=[jax_contender("exact, chunked", wrap(form("chunked")), *inputs)],
                tolerance=0.02,
            )
