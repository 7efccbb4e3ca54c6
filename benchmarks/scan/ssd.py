"""Scans: state-space duality against the selective scan and transformers' Mamba-2."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from benchmarks.peers import import_peer
from scanmax import ops

# Mamba-2 130m: width 768, expanded by 2 to 24 heads of 64, 128 states, one group.
HEADS, WIDTH, STATES, GROUPS = 24, 64, 128, 1
NAMES = ("x", "dt", "A", "B", "C", "D")


def _inputs(length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=(1, length, HEADS, WIDTH)),
        "dt": np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), size=(1, length, HEADS))),
        "A": -rng.uniform(1, 16, size=HEADS),
        "B": rng.normal(size=(1, length, GROUPS, STATES)),
        "C": rng.normal(size=(1, length, GROUPS, STATES)),
        "D": rng.normal(size=HEADS),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _ssd(x, dt, A, B, C, D):
    return ops.ssd(x, dt, A, B, C, D=D)


def _selective(x, dt, A, B, C, D):
    """The same numbers from the selective scan: channels of a head share dt, A and D."""
    batch, length, heads, width = x.shape

    def by_channel(z):
        return jnp.repeat(z, width, axis=-1)

    y = ops.selective_scan(
        x.reshape(batch, length, -1),
        by_channel(dt),
        jnp.broadcast_to(by_channel(A)[:, None], (heads * width, STATES)),
        B[:, :, 0],
        C[:, :, 0],
        D=by_channel(D),
    )
    return y.reshape(x.shape)


def _training(function):
    """The output and the gradient of every argument for a given cotangent."""

    def value_and_gradients(cotangent, *arguments):
        y, pullback = jax.vjp(function, *arguments)
        return y, *pullback(cotangent)

    return value_and_gradients


def _transformers(arrays, cotangent):
    """Forward, and forward with all gradients, of the torch code that runs without kernels."""
    import torch

    mamba2 = import_peer("transformers.models.mamba2.modeling_mamba2")
    tensors = [to_torch(arrays[name]).requires_grad_() for name in NAMES]
    cotangent = to_torch(cotangent)

    def scan(x, dt, A, B, C, D):
        # 256 is the chunk of its configuration
        return mamba2.mamba2_chunk_scan(x, dt, A, B, C, chunk_size=256, D=D)

    def forward():
        with torch.no_grad():
            return scan(*tensors)

    def training():
        y = scan(*tensors)
        return y, *torch.autograd.grad(y, tensors, cotangent)

    return forward, training


@benchmark("ssd")
def ssd(quick: bool):
    """ops.ssd against ops.selective_scan at equal states and transformers' Mamba-2, float32."""
    for length in (256,) if quick else (1024, 4096):
        arrays = _inputs(length)
        ordered = [arrays[name] for name in NAMES]
        cotangent = np.random.default_rng(1).normal(size=arrays["x"].shape).astype(np.float32)
        forward, training = _transformers(arrays, cotangent)
        title = f"T={length}, {HEADS} heads of {WIDTH}, {STATES} states"
        yield Row(
            f"{title}, forward",
            jax_contender("scanmax ssd", _ssd, *ordered),
            [
                torch_contender("transformers mamba2", forward),
                jax_contender("scanmax selective_scan", _selective, *ordered),
            ],
        )
        yield Row(
            f"{title}, training",
            jax_contender("scanmax ssd", _training(_ssd), cotangent, *ordered),
            [
                torch_contender("transformers mamba2", training),
                jax_contender("scanmax selective_scan", _training(_selective), cotangent, *ordered),
            ],
            # gradients of A sum over all tokens, with cancellation
            tolerance=1e-3,
        )


@benchmark("selective_scan")
def selective_scan(quick: bool):
    """ops.selective_scan, token after token, against an associative scan, float32, 16 states."""
    length, dim, states = 128 if quick else 1024, 1536, 16
    rng = np.random.default_rng(0)
    arguments = [
        rng.normal(size=(1, length, dim)),
        np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), size=(1, length, dim))),
        -np.broadcast_to(np.arange(1.0, states + 1), (dim, states)),
        rng.normal(size=(1, length, states)),
        rng.normal(size=(1, length, states)),
    ]
    arguments = [z.astype(np.float32) for z in arguments]
    cotangent = rng.normal(size=(1, length, dim)).astype(np.float32)
    forms = {
        form: functools.partial(ops.selective_scan, form=form)
        for form in ("recurrent", "chunked", "parallel")
    }
    title = f"T={length}, {dim} channels of {states} states"
    for label, wrap, given in (
        ("forward", lambda op: op, arguments),
        ("training", _training, [cotangent, *arguments]),
    ):
        first, *rest = (jax_contender(form, wrap(op), *given) for form, op in forms.items())
        yield Row(f"{title}, {label}", first, rest, tolerance=1e-3)
