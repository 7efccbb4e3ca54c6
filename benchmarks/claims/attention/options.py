"""Claims about temperatures, decays and mixed heads of attention."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim, save_figure
from benchmarks.claims.slopes import exponent, heads, slope
from scanmax import ops
from scanmax.models import create_model


def grid_of(T: int) -> tuple[int, int]:
    """Y, X of T tokens, T a power of two: a square, or two squares side by side."""
    rows = 2 ** ((T.bit_length() - 1) // 2)
    return rows, T // rows


@slope("manhattan_attention, decomposed", 1.5)
def _decomposed(T):
    decay = ops.manhattan_log_decay(2)

    def run(query, key, value):
        return ops.manhattan_attention(query, key, value, decay, grid=grid_of(T), decomposed=True)

    return jax.jit(run), heads(T, 3)


def _entropy(weights) -> float:
    """Mean entropy of the rows, in nats."""
    weights = np.asarray(weights, np.float64)
    logs = np.log(np.maximum(weights, 1e-300))
    return float(-(weights * logs).sum(-1).mean())


@claim("ssa-entropy-over-length", paper="ssa-selective-self-attention", figure="ssa-entropy")
def ssa_entropy(quick):
    """Softmax dilutes attention as the context grows; a temperature with log n prevents it."""
    lengths = (64, 256, 1024, 4096)
    rng = np.random.default_rng(0)
    query, key = (rng.normal(size=(T, 1, 64)).astype(np.float32) for T in (64, lengths[-1]))

    def entropies(gain):
        found = []
        for n in lengths:
            tau = None
            if gain:
                strength = jnp.asarray(np.log(gain / (1 - gain)), jnp.float32)
                tau = ops.selective_temperature(strength=strength, num_keys=n)
            found.append(_entropy(ops.selective_attention_matrix(query, key[:n], tau)))
        return found

    curves = {gain: entropies(gain) for gain in (0.0, 0.3, 0.5, 0.9)}
    if not quick:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(5, 3.2))
        for gain, values in curves.items():
            label = f"1 + {gain} log n" if gain else "softmax"
            axes.plot(lengths, values, "o-", label=label)
        axes.set(xscale="log", xlabel="keys n", ylabel="row entropy (nats)", ylim=(0, None))
        axes.legend()
        save_figure(figure, "ssa-entropy")
    plain, best = curves[0.0], curves[0.9]
    grown, spread = plain[-1] - plain[0], max(best) - min(best)
    return [
        Finding(
            "entropy of random logits gained from n = 64 to 4096, softmax",
            "grows with n",
            f"{grown:.2f} nats (log 64 = {np.log(64):.2f})",
            grown > 3,
        ),
        Finding(
            "the same, spread with tau = 1 + 0.9 log n",
            "independent of n",
            f"{spread:.2f} nats around {np.mean(best):.2f}",
            spread < 0.1 * grown,
        ),
    ]


def _count(name: str, **fields) -> int:
    model = create_model(name, **fields)
    shape = (1, 224, 224, 3)
    tree = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@claim("ssa-parameters", paper="ssa-selective-self-attention")
def ssa_parameters(quick):
    """Sharing the projections' weights, the temperatures cost less than 0.5% new parameters."""
    findings = []
    for name in ("deit_tiny_patch16_224", "deit_small_patch16_224")[: 1 if quick else 2]:
        plain, selective = _count(name), _count(name, mixer="ssa")
        share = 100 * (selective - plain) / plain
        findings.append(
            Finding(
                f"{name}: parameters added",
                "< 0.5%",
                f"{selective - plain:,} of {plain:,}, {share:.3f}%",
                0 < share < 0.5,
            )
        )
    return findings


@claim("manhattan-mask-is-a-product", paper="rmt-masa")
def manhattan_mask(quick):
    """The two-dimensional decay is the product of one along the rows and one along the columns."""
    decay = ops.manhattan_log_decay(4)
    rows, columns = ops.decay_mask_1d(decay, 14), ops.decay_mask_1d(decay, 14)
    product = jnp.einsum("hyv,hxw->hyxvw", rows, columns).reshape(4, 196, 196)
    error = float(jnp.abs(ops.decay_mask_2d(decay, (14, 14)) / product - 1).max())
    return [
        Finding("largest relative difference, 14 x 14, 4 heads", "0", f"{error:.1e}", error < 1e-5)
    ]


@claim("manhattan-decomposed-cost", paper="rmt-masa", by_hand=True)
def manhattan_cost(quick):
    """Along rows, then columns, the attention costs HW(H + W) instead of (HW)^2."""
    sizes = (256, 1024) if quick else (256, 1024, 4096, 16384)
    rounds = 2 if quick else 4
    decay = ops.manhattan_log_decay(2)

    def make(decomposed):
        def of(T):
            def run(query, key, value):
                options = {"grid": grid_of(T), "decomposed": decomposed}
                return ops.manhattan_attention(query, key, value, decay, **options)

            return jax.jit(run), heads(T, 3)

        return of

    measured = {kind: exponent(make(kind), sizes, rounds) for kind in (True, False)}
    return [
        Finding(
            f"exponent of time in HW, decomposed, HW = {sizes[0]}..{sizes[-1]}",
            "1.5",
            f"{measured[True]:.2f}",
            measured[True] < 1.75,
        ),
        Finding("the same, whole", "2", f"{measured[False]:.2f}", measured[False] > 1.7),
    ]
