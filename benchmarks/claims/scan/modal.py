"""Claims about recurrences: modal state spaces distilled from filters, and the wkv of RWKV."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.slopes import heads, slope
from scanmax import ops
from scanmax.train.distill import distill_filter


def hyena_like(T: int, count: int, seed: int = 0) -> jax.Array:
    """Filters [T, count] as implicit ones are: twelve damped oscillations of all frequencies."""
    rng = np.random.default_rng(seed)
    shape, t = (count, 12), np.arange(T)[:, None, None]
    waves = np.cos(t * rng.uniform(0, 3, shape) + rng.uniform(0, 6, shape))
    decays = np.exp(-t * rng.uniform(0.01, 0.1, shape))
    return jnp.asarray((rng.normal(size=shape) * waves * decays).sum(-1), jnp.float32)


@claim("hankel-values-foretell-the-error", paper="laughing-hyena", figure="distillation")
def hankel_values_foretell_the_error(quick):
    """The order a filter needs shows in the decay of the singular values of its Hankel matrix."""
    taps = hyena_like(128, 4)
    values = np.asarray(ops.hankel_singular_values(taps))
    norm = np.linalg.norm(np.asarray(taps[1:]), axis=0)
    modes = (1, 2, 4, 8, 10, 12)
    errors = np.stack([np.asarray(distill_filter(taps, n, steps=0).error) for n in modes])
    foretold = np.stack([values[:, 2 * n] for n in modes]) / norm
    kept = slice(0, len(modes) - 1)  # at 12 modes only rounding is left
    correlation = np.corrcoef(np.log(errors[kept]).mean(1), np.log(foretold[kept]).mean(1))[0, 1]
    findings = [
        Finding(
            f"relative error with {n} modes beside the next singular value, mean of four filters",
            "falls with it",
            f"{error.mean():.1e} beside {value.mean():.1e}",
            bool((error < 3 * value + 1e-4).all()),
        )
        for n, error, value in zip(modes, errors, foretold)
    ]
    findings.append(
        Finding(
            "correlation of the logarithms over 1 to 10 modes",
            "the one foretells the other",
            f"{correlation:.3f}",
            bool(correlation > 0.95),
        )
    )
    order = np.asarray(ops.hankel_order(taps, tolerance=1e-2))
    chosen = [
        float(distill_filter(taps[:, i : i + 1], -(-int(n) // 2), steps=0).error[0])
        for i, n in enumerate(order)
    ]
    findings.append(
        Finding(
            "error at the order that a share of 1e-2 chooses: " + ", ".join(str(n) for n in order),
            "small",
            ", ".join(f"{error:.0e}" for error in chosen),
            max(chosen) < 2e-2,
        )
    )
    if not quick:
        _draw(modes, errors, foretold)
    return findings


def _draw(modes, errors, foretold):
    import matplotlib.pyplot as plt

    from benchmarks.claims import save_figure

    figure, axis = plt.subplots(figsize=(5, 3.4))
    for column in range(errors.shape[1]):
        color = f"C{column}"
        axis.semilogy(modes, errors[:, column], "o-", color=color, label=f"filter {column}")
        axis.semilogy(modes, foretold[:, column], "--", color=color)
    axis.set_xlabel("complex modes")
    axis.set_ylabel("relative error (dashed: next singular value)")
    axis.legend()
    save_figure(figure, "distillation")


@claim("distilled-filters-generate-in-constant-time", paper="laughing-hyena", by_hand=True)
def constant_time(quick):
    """A distilled convolution generates at a cost per token that the length does not change."""
    dim, modes = 256, 8
    rng = np.random.default_rng(0)
    shape = (dim, modes)
    arrays = {
        "log_magnitude": jnp.asarray(-rng.uniform(0.001, 0.1, shape), jnp.float32),
        "angle": jnp.asarray(rng.uniform(0, 3, shape), jnp.float32),
        "residue": jnp.asarray(rng.normal(size=(*shape, 2)), jnp.float32),
    }
    steps = 256

    @jax.jit
    def generate(state, x):
        def token(carry, _):
            state, x = carry
            y, state = ops.modal_ssm_step(state, x, **arrays)
            return (state, jnp.tanh(y)), None

        return jax.lax.scan(token, (state, x), length=steps)[0]

    def seconds(function, *inputs):
        jax.block_until_ready(function(*inputs))
        times = []
        for _ in range(3 if quick else 7):
            start = time.perf_counter()
            jax.block_until_ready(function(*inputs))
            times.append(time.perf_counter() - start)
        return min(times)

    findings, recurrent, again = [], [], []
    lengths = (512, 1024) if quick else (1024, 4096, 16384)
    for T in lengths:
        x = jnp.asarray(rng.normal(size=(T, dim)), jnp.float32)
        y, state = ops.modal_ssm(x, **arrays, return_state=True)
        taps = ops.modal_ssm_filter(**arrays, length=T)
        convolve = jax.jit(functools.partial(ops.fft_conv, form="fft"))
        difference = float(jnp.abs(convolve(x, taps) - y).max() / jnp.abs(y).max())
        recurrent.append(seconds(generate, state, x[-1]) / steps)
        again.append(seconds(convolve, x, taps))
        findings.append(
            Finding(
                f"recurrence against FFT convolution, {T} tokens, {dim} channels of {modes} modes",
                "equal",
                f"{difference:.0e}",
                difference < 1e-3,
            )
        )
    spread = max(recurrent) / min(recurrent)
    listed = ", ".join(f"{1e6 * t:.0f}" for t in recurrent)
    findings.append(
        Finding(
            f"microseconds per token behind {', '.join(map(str, lengths))} tokens",
            "flat",
            listed,
            spread < 1.5,
        )
    )
    listed = ", ".join(f"{1e6 * t:.0f}" for t in again)
    findings.append(
        Finding(
            "microseconds per token by convolving again",
            "grows with the length",
            listed,
            again[-1] > 1.5 * again[0],
        )
    )
    return findings


@claim("wkv-is-its-double-sum", paper="diffusion-rwkv")
def wkv_is_its_double_sum(quick):
    """Two scans give the bidirectional wkv that a double sum over the tokens defines."""
    rng = np.random.default_rng(0)
    T, dim = 128, 16
    key, value = (jnp.asarray(rng.normal(size=(T, dim)) * 3, jnp.float32) for _ in range(2))
    rate, bonus = (jnp.asarray(rng.uniform(-5, 3, dim), jnp.float32) for _ in range(2))
    findings = []
    for name, is_causal, decay in (
        ("bidirectional, decay and bonus over T", False, -rate / T),
        ("causal", True, -jnp.exp(rate)),
    ):
        own = bonus if is_causal else bonus / T
        matrix = ops.wkv_matrix(key, decay, own, is_causal=is_causal)
        expected = jnp.einsum("dts,sd->td", matrix, value)
        y = ops.wkv(key, value, decay, own, is_causal=is_causal)
        error = float(jnp.abs(y - expected).max() / jnp.abs(expected).max())
        findings.append(
            Finding(f"largest difference, {name}, {T} tokens", "0", f"{error:.0e}", error < 1e-5)
        )
    return findings


@claim("wkv6-forms-agree", paper="rwkv-clip")
def wkv6_forms_agree(quick):
    """The recurrence with decays that depend on the token has a state that does not grow."""
    query, key, value, raw = heads(256, 4)
    log_decay = -jnp.exp(jnp.asarray(raw) - 1)
    bonus = jnp.ones(query.shape[1:], jnp.float32)
    expected = jnp.einsum("hts,shv->thv", ops.wkv6_matrix(query, key, log_decay, bonus), value)
    findings = []
    for form in ("recurrent", "chunked"):
        y, state = ops.wkv6(query, key, value, log_decay, bonus, form=form, return_state=True)
        error = float(jnp.abs(y - expected).max() / jnp.abs(expected).max())
        findings.append(
            Finding(f"{form} form against the T x T matrix", "0", f"{error:.0e}", error < 1e-5)
        )
    findings.append(
        Finding("state behind 256 tokens", "K x V", str(state.shape), state.shape == (2, 32, 32))
    )
    return findings


@claim("modal-is-its-double-sum", paper="laughing-hyena")
def modal_is_its_double_sum(quick):
    """A modal state space is the convolution with its filter, by steps, in chunks or by FFT."""
    rng = np.random.default_rng(0)
    T, dim, modes = 96, 3, 4
    x, skip = rng.normal(size=(T, dim)), rng.normal(size=dim)
    magnitude, angle = -rng.uniform(0.01, 1, (dim, modes)), rng.uniform(-3, 3, (dim, modes))
    residue = rng.normal(size=(dim, modes, 2))
    poles = np.exp(magnitude + 1j * angle)
    weights = residue[..., 0] + 1j * residue[..., 1]
    expected = skip * x
    for t in range(T):
        for s in range(t):
            expected[t] += (weights * poles ** (t - s - 1)).sum(-1).real * x[s]
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, magnitude, angle, residue)]
    findings = []
    for form in ("recurrent", "chunked", "parallel"):
        y = ops.modal_ssm(*arrays, D=jnp.asarray(skip, jnp.float32), form=form)
        error = float(np.abs(y - expected).max() / np.abs(expected).max())
        what = f"largest difference, form {form!r}, {T} tokens"
        findings.append(Finding(what, "0", f"{error:.0e}", error < 1e-5))
    return findings


@claim("delta-rule-is-its-double-sum", paper="zoology-mqar")
def delta_rule_is_its_double_sum(quick):
    """A chunk of the delta rule is one triangular system, not a product of its tokens' matrices."""
    rng = np.random.default_rng(0)
    T, K = 48, 8
    query, key, value = rng.normal(size=(3, T, K))
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    beta, log_decay = rng.uniform(0, 1.8, T), -rng.exponential(0.2, T)
    expected = np.zeros((T, K))
    for s in range(T):
        moved = beta[s] * key[s]
        for t in range(s, T):
            if t > s:
                moved = np.exp(log_decay[t]) * (moved - beta[t] * key[t] * (key[t] @ moved))
            expected[t] += (query[t] @ moved) * value[s]
    arrays = [jnp.asarray(a, jnp.float32)[:, None] for a in (query, key, value, beta, log_decay)]
    findings = []
    for form in ("recurrent", "chunked", "parallel"):
        *given, decays = arrays
        y = ops.delta_rule(*given, log_decay=decays, form=form, chunk_size=16)[:, 0]
        error = float(np.abs(y - expected).max() / np.abs(expected).max())
        what = f"largest difference, gated, form {form!r}, {T} tokens"
        findings.append(Finding(what, "0", f"{error:.0e}", error < 1e-5))
    return findings


def _channels(T, count, width=64):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(T, width)).astype(np.float32) for _ in range(count)]


@slope("wkv, bidirectional")
def _wkv(T):
    weights = -jnp.ones(64), jnp.ones(64)
    return jax.jit(lambda k, v: ops.wkv(k, v, *weights, is_causal=False)), _channels(T, 2)


@slope("wkv6")
def _wkv6(T):
    bonus = jnp.ones((2, 32))
    return jax.jit(lambda q, k, v, a: ops.wkv6(q, k, v, -jnp.exp(a), bonus)), heads(T, 4)


def _modal(T, form):
    rng = np.random.default_rng(0)
    poles = [jnp.asarray(a, jnp.float32) for a in -rng.uniform(0, 1, size=(2, 64, 8))]
    residue = jnp.asarray(rng.normal(size=(64, 8, 2)), jnp.float32)
    return jax.jit(lambda x: ops.modal_ssm(x, *poles, residue, form=form)), _channels(T, 1)


@slope("modal_ssm, chunked")
def _modal_chunked(T):
    return _modal(T, "chunked")


@slope("modal_ssm, FFT")
def _modal_fft(T):
    return _modal(T, "parallel")
