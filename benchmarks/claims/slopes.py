"""Run time against length: the exponent of every op that claims less than T^2, by least squares."""

import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.harness import jax_contender
from scanmax import ops

# name -> (function of the tokens T giving (callable, arrays), what the exponent should be at most).
SLOPES: dict[str, tuple[Callable, float]] = {}
# Long enough for the slope to be that of the sums, not of the calls.
TOKENS = (1024, 2048, 4096, 8192)
# Fixed costs make measured slopes smaller, caches larger, than those of the operation counts.
SLACK = 0.25
# What carries a state along the tokens, or a convolution as long as they are: by the names above.
SCANS = (
    *("linear_attention", "linear_attention, bidirectional", "linear_attention, decay per channel"),
    *("delta_rule, gated", "diagonal_scan", "ssd", "nc_ssd", "selective_scan"),
    *("wkv, bidirectional", "wkv6", "modal_ssm, chunked", "modal_ssm, FFT", "fft_conv, causal"),
)
# Bytes of a training step beyond its arguments, as a multiple of them. Gradients take one.
MEMORY = 12


def slope(name: str, exponent: float = 1.0) -> Callable:
    """Registers `make(T) -> (callable, arrays)` under an op's name."""

    def register(make):
        SLOPES[name] = (make, exponent)
        return make

    return register


def heads(T: int, count: int, width: int = 32, number: int = 2) -> list[np.ndarray]:
    """`count` random arrays [T, heads, width]."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(T, number, width)).astype(np.float32) for _ in range(count)]


@slope("linear_attention")
def _linear_attention(T):
    return jax.jit(lambda *arrays: ops.linear_attention(*arrays)), heads(T, 3)


@slope("linear_attention, bidirectional")
def _bidirectional(T):
    return jax.jit(lambda *a: ops.linear_attention(*a, is_causal=False)), heads(T, 3)


@slope("linear_attention, decay per channel")
def _decay(T):
    decays = [-np.abs(x) / 100 for x in heads(T, 1)]
    return jax.jit(lambda *a: ops.linear_attention(*a[:3], log_decay=a[3])), heads(T, 3) + decays


@slope("delta_rule, gated")
def _delta(T):
    query, key, value = heads(T, 3)
    key = key / np.linalg.norm(key, axis=-1, keepdims=True)
    gates = np.abs(heads(T, 1)[0][..., 0]) / 4
    return jax.jit(lambda *a: ops.delta_rule(*a, log_decay=-a[-1])), [query, key, value, gates]


@slope("diagonal_scan")
def _diagonal(T):
    return jax.jit(ops.diagonal_scan), [np.abs(x[:, 0]) / 4 for x in heads(T, 2, width=256)]


def exponent(make: Callable, sizes=TOKENS, rounds: int = 5) -> float:
    """Slope of log time over log T, of the fastest of some calls at each size, sizes by turns."""
    calls = []
    for T in sizes:
        function, arrays = make(T)
        calls.append((function, jax.device_put(arrays)))
        jax.block_until_ready(function(*calls[-1][1]))
    best = [math.inf] * len(sizes)
    for _ in range(rounds):
        for place, (function, arrays) in enumerate(calls):
            start = time.perf_counter()
            jax.block_until_ready(function(*arrays))
            best[place] = min(best[place], time.perf_counter() - start)
    return float(np.polyfit(np.log(sizes), np.log(best), 1)[0])


@claim("time-slopes", paper="sparse-transformer", by_hand=True)
def time_slopes(quick):
    """Linear and sparse mixers take time that grows as they say, not as T^2."""
    sizes = TOKENS[:2] if quick else TOKENS
    findings = []
    for name, (make, most) in sorted(SLOPES.items()):
        measured = exponent(make, sizes, rounds=2 if quick else 5)
        findings.append(
            Finding(
                f"{name}: exponent of time in T, T = {sizes[0]}..{sizes[-1]}",
                f"{most:g}",
                f"{measured:.2f}",
                measured <= most + SLACK,
            )
        )
    return findings


def _training(function: Callable) -> Callable:
    """The gradient of every argument of a function whose result is weighted by ones."""

    def gradients(*arrays):
        y, pullback = jax.vjp(function, *arrays)
        return pullback(jnp.ones_like(y))

    return jax.jit(gradients)


def _memory(make: Callable, T: int) -> float:
    """Peak bytes of a call beyond its arguments, over the bytes of those."""
    function, arrays = make(T)
    contender = jax_contender("", function, *arrays)
    contender.prepare()()
    return contender.memory() / sum(np.asarray(x).nbytes for x in arrays)


@claim("scan-slopes", paper="mamba2-ssd", by_hand=True)
def scan_slopes(quick):
    """Scans and long convolutions take time and memory linear in T, in training too."""
    sizes = (256, 512) if quick else (256, 1024, 4096, 16384)
    findings = []
    for name in SCANS[:2] if quick else SCANS:
        make, most = SLOPES[name]

        def train(T, make=make):
            function, arrays = make(T)
            return _training(function), arrays

        times = [exponent(f, sizes, rounds=2 if quick else 5) for f in (make, train)]
        held = _memory(train, sizes[-1])
        findings.append(
            Finding(
                f"{name}: exponent of time in T, T = {sizes[0]}..{sizes[-1]}, forward; training",
                "1; 1",
                "; ".join(f"{value:.2f}" for value in times),
                max(times) <= most + SLACK,
            )
        )
        findings.append(
            Finding(
                f"{name}: memory of training over that of the arguments, T = {sizes[-1]}",
                "a small constant",
                f"{held:.1f}",
                held <= MEMORY,
            )
        )
    return findings
