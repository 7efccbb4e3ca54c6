"""Long sequences on a GPU, bfloat16, beside what others run there: `python -m benchmarks gpu`.

Attention beside jax.nn's cuDNN kernel and torch's fused one; SSD beside mamba_ssm's Triton kernels,
and a decay per head beside flash-linear-attention's, each where its package is installed and finds
the GPU. Batch, heads and widths are those of Mamba-2's 780m. Without a GPU only --quick runs, at a
few tokens, to see that all is right.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Contender, Row, benchmark, jax_contender, to_torch
from benchmarks.passes import with_gradients
from scanmax import ops
from scanmax.errors import UserError

HEADS, WIDTH, STATES = 48, 64, 128
LENGTHS = (2048, 8192, 32768)
# Of sums in bfloat16.
TOLERANCE = 3e-2


def lengths(quick: bool) -> tuple[int, ...]:
    """Tokens of the rows.

    Raises:
      UserError: whole measurements without a GPU.
    """
    if quick:
        return (64,)
    if jax.default_backend() != "gpu":
        raise UserError(f"the group 'gpu' needs one; JAX runs on {jax.default_backend()!r}")
    return LENGTHS


def on_cuda(package: str) -> bool:
    """Whether a package of torch kernels is installed beside a GPU that torch sees."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", package)):
        return False
    import torch

    return torch.cuda.is_available()


def cuda_contender(name: str, function: Callable, arrays, cotangent, training: bool) -> Contender:
    """A function of tensors on the GPU, forward or with the gradients of all of them."""

    def prepare():
        import torch

        inputs = [to_torch(np.asarray(x, np.float32)).cuda() for x in arrays]
        inputs = [
            (x if like.dtype == jnp.float32 else x.bfloat16()).requires_grad_()
            for x, like in zip(inputs, arrays)
        ]
        d_y = to_torch(np.asarray(cotangent, np.float32)).cuda().bfloat16()

        def call():
            if training:
                y = function(*inputs)
                found = (y, *torch.autograd.grad(y, inputs, d_y))
            else:
                with torch.no_grad():
                    found = function(*inputs)
            torch.cuda.synchronize()
            return found

        call()
        return call

    return Contender(name, prepare, compiles=True)


def rows(title, ours, arrays, jax_peers, torch_peers) -> Iterator[Row]:
    """Forward and training of our forms beside their peers; the first of ours is the reference."""
    shape = jax.eval_shape(next(iter(ours.values())), *arrays)
    cotangent = jax.random.normal(jax.random.key(1), shape.shape, shape.dtype)
    for label in ("forward", "training"):
        training = label == "training"
        given = [*arrays, cotangent] if training else arrays
        contenders = [
            jax_contender(name, with_gradients(call) if training else call, *given)
            for name, call in {**ours, **jax_peers}.items()
        ]
        contenders += [
            cuda_contender(name, call, arrays, cotangent, training)
            for name, call in torch_peers.items()
        ]
        own, *peers = contenders
        yield Row(f"{title}, {label}", own, peers, TOLERANCE, own.name)


def normal(*shapes, dtype=jnp.bfloat16):
    """Normal numbers on the device."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes)]


@benchmark("gpu_attention", group="gpu")
def gpu_attention(quick: bool):
    """Causal attention of 48 heads on a GPU: ours by name and unasked, jax.nn's cuDNN, torch's."""
    is_gpu = jax.default_backend() == "gpu"
    for T in lengths(quick):
        arrays = normal(*[(1, T, HEADS, WIDTH)] * 3)
        call = functools.partial(ops.dot_product_attention, is_causal=True)
        jax_call = functools.partial(jax.nn.dot_product_attention, is_causal=True)
        ours = {"scanmax": call, "scanmax, in blocks": functools.partial(call, form="chunked")}
        peers = {"jax.nn": functools.partial(jax_call, implementation="cudnn" if is_gpu else "xla")}

        def fused(q, k, v):
            import torch.nn.functional as F

            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

        theirs = {"torch, fused": fused} if on_cuda("torch") else {}
        yield from rows(f"T={T}, {HEADS} heads of {WIDTH}", ours, arrays, peers, theirs)


@benchmark("gpu_ssd", group="gpu")
def gpu_ssd(quick: bool):
    """SSD of Mamba-2's 780m on a GPU: ours in chunks, mamba_ssm's Triton kernels."""
    for T in lengths(quick):
        x, B, C = normal((1, T, HEADS, WIDTH), (1, T, 1, STATES), (1, T, 1, STATES))
        dt, A = normal((1, T, HEADS), (HEADS,), dtype=jnp.float32)
        arrays = [x, jax.nn.softplus(dt - 4), -jnp.exp(A), B / STATES**0.5, C / STATES**0.5]
        ours = {f"scanmax, chunks of {c}": functools.partial(ops.ssd, chunk_size=c)
                for c in (128, 256)}  # fmt: skip

        def triton(x, dt, A, B, C):
            from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

            return mamba_chunk_scan_combined(x, dt, A, B, C, 256)

        theirs = {"mamba_ssm": triton} if on_cuda("mamba_ssm") else {}
        title = f"T={T}, {HEADS} heads of {WIDTH}, {STATES} states"
        yield from rows(title, ours, arrays, {}, theirs)


@benchmark("gpu_decay", group="gpu")
def gpu_decay(quick: bool):
    """Linear attention with a decay per head on a GPU: ours in chunks, fla's chunk_simple_gla."""
    for T in lengths(quick):
        arrays = normal(*[(1, T, HEADS, WIDTH)] * 3)
        (decay,) = normal((1, T, HEADS), dtype=jnp.float32)
        arrays = [arrays[0] / WIDTH**0.5, *arrays[1:], -jax.nn.softplus(decay)]

        def call(q, k, v, a, **options):
            return ops.linear_attention(q, k, v, log_decay=a, **options)

        ours = {f"scanmax, chunks of {c}": functools.partial(call, chunk_size=c) for c in (64, 128)}

        def simple_gla(q, k, v, g):
            from fla.ops.simple_gla import chunk_simple_gla

            return chunk_simple_gla(q, k, v, g, scale=1.0)[0]

        theirs = {"fla": simple_gla} if on_cuda("fla") else {}
        yield from rows(f"T={T}, {HEADS} heads of {WIDTH}", ours, arrays, {}, theirs)
