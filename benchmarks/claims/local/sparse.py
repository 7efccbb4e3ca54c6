"""Sparse patterns and convolution as attention: equalities, reachability, counts, run time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.slopes import heads, slope
from scanmax import ops
from scanmax.models.mixers import create_mixer

WINDOWS = (64, 256)


def root(T: int) -> int:
    """The stride that makes both patterns equally long."""
    return max(1, round(T**0.5))


def _sparse(name, pattern, **options):
    def make(T):
        keywords = {"pattern": pattern, "stride": root(T), **options}
        return jax.jit(lambda *a: ops.sparse_attention(*a, **keywords)), heads(T, 3)

    slope(name, 1.5)(make)


_sparse("sparse_attention, strided", "strided")
_sparse("sparse_attention, fixed", "fixed")
_sparse("sparse_attention, strided, both ways", "strided", is_causal=False)


@slope("per_head_window_attention")
def _per_head_window(T):
    return (
        jax.jit(lambda *a: ops.per_head_window_attention(*a, windows=WINDOWS, sinks=64)),
        heads(T, 3),
    )


@slope("lkca, 13 x 13")
def _lkca(T):
    rng = np.random.default_rng(0)
    value = rng.normal(size=(T // 32, 32, 1, 32)).astype(np.float32)
    return jax.jit(ops.lkca), [value, rng.normal(size=(13, 13)).astype(np.float32)]


@slope("conv_additive_attention")
def _conv_additive(T):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(T // 32, 32, 64)).astype(np.float32) for _ in range(3)]
    kernel = rng.normal(size=(3, 3, 1, 64)).astype(np.float32)
    return jax.jit(ops.conv_additive_attention), [*maps, kernel]


@slope("spatial_reduction_attention, 49 cells")
def _spatial_reduction(T):
    query, key, value = heads(T, 3)
    maps = [x.reshape(T // 32, 32, *x.shape[1:]) for x in (key, value)]
    return jax.jit(lambda *a: ops.spatial_reduction_attention(*a, size=7)), [query, *maps]


def _error(actual, expected) -> float:
    return float(jnp.abs(actual - expected).max() / jnp.abs(expected).max())


@claim("sparse-gather", paper="sparse-transformer")
def sparse_gather(quick):
    """Two sparse patterns, evaluated by gathering keys, are attention under their boolean mask."""
    findings = []
    arrays = [jnp.asarray(x) for x in heads(200, 3)]
    for pattern in ("strided", "fixed"):
        options = {"pattern": pattern, "stride": 14}
        mask = ops.sparse_pattern(200, 2, **options)
        dense = ops.dot_product_attention(*arrays, mask=mask)
        error = _error(ops.sparse_attention(*arrays, **options), dense)
        name = f"{pattern}, T = 200: largest difference to dense attention, relative"
        findings.append(Finding(name, "below 1e-5", f"{error:.0e}", error < 1e-5))
    return findings


@claim("sparse-reach", paper="sparse-transformer")
def sparse_reach(quick):
    """Every token reaches every earlier one in two hops over the patterns."""
    length, findings = 144, []
    past = np.tri(length, dtype=bool)

    def reached(first, second):
        return ((first @ second) > 0)[past].mean()

    for pattern in ("strided", "fixed"):
        one, two, both = (
            np.asarray(ops.sparse_pattern(length, pattern=pattern, combine=part)[0], int)
            for part in ("local", "summary", "merged")
        )
        share = reached(both, both)
        alone = f"{reached(one, two):.0%} by A B, {reached(two, one):.0%} by B A"
        findings.append(
            Finding(
                f"{pattern}: earlier tokens reached by two hops over A or B ({alone})",
                "all",
                f"{share:.0%}",
                bool(share == 1),
            )
        )
    return findings


@claim("sparse-count", paper="sparse-transformer")
def sparse_count(quick):
    """Both patterns hold O(n sqrt n) pairs."""
    lengths, findings = (256, 1024, 4096), []
    for pattern in ("strided", "fixed"):
        counts = [
            int(ops.sparse_pattern(n, pattern=pattern, stride=root(n)).sum()) for n in lengths
        ]
        exponent = np.polyfit(np.log(lengths), np.log(counts), 1)[0]
        share = counts[-1] / (lengths[-1] * (lengths[-1] + 1) / 2)
        findings.append(
            Finding(
                f"{pattern}: exponent of the pairs, n = 256..4096 ({share:.1%} of all at 4096)",
                "1.5",
                f"{exponent:.2f}",
                bool(abs(exponent - 1.5) < 0.03),
            )
        )
    return findings


@claim("lkca-both-forms", paper="lkca")
def lkca_both_forms(quick):
    """A large-kernel convolution is attention with a fixed matrix: both forms are equal."""
    rng = np.random.default_rng(0)
    value = jnp.asarray(rng.normal(size=(14, 14, 3, 16)), jnp.float32)
    findings = []
    for name, shape in (("one for all", (27, 27)), ("per head", (27, 27, 3))):
        kernel = jnp.asarray(rng.normal(size=shape), jnp.float32)
        error = _error(
            ops.lkca(value, kernel, form="conv"), ops.lkca(value, kernel, form="parallel")
        )
        what = f"14 x 14 map, 27 x 27 kernel {name}: difference of the forms, relative"
        findings.append(Finding(what, "0", f"{error:.0e}", error < 1e-5))
    matrix = ops.lkca_matrix(kernel, (14, 14)).reshape(3, 14, 14, 14, 14)
    toeplitz = bool(
        (matrix[:, :-1, :, :-1] == matrix[:, 1:, :, 1:]).all()
        & (matrix[:, :, :-1, :, :-1] == matrix[:, :, 1:, :, 1:]).all()
    )
    weights = 27 * 27
    return [
        *findings,
        Finding("the matrix is block-Toeplitz", "yes", "yes" if toeplitz else "no", toeplitz),
        Finding(
            "weights in the place of queries and keys, width 192",
            "fewer",
            f"{weights} for {2 * 192 * 192}",
            weights < 2 * 192 * 192,
        ),
    ]


@claim("cas-ungated", paper="cas-vit")
def cas_ungated(quick):
    """With its gates at 1 the additive mixer is DW(DW(Q + K) * V)."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 48, 8)), jnp.float32)
    mixer = create_mixer("conv_additive", heads=1)
    shapes = jax.eval_shape(lambda key: mixer.init(key, x, grid=(6, 8)), jax.random.key(0))
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(np.abs(rng.normal(size=leaf.shape)), leaf.dtype),
        nn.unbox(shapes),
    )
    params = variables["params"]
    # Without weights both gates are sigmoid(0) = 1 / 2, the queries and keys a quarter each.
    for gate in ("query_spatial", "query_channel", "key_spatial", "key_channel"):
        params[gate]["kernel"] = jnp.zeros_like(params[gate]["kernel"])
    query, key, value = (
        (x @ params["qkv"]["kernel"][:, part]).reshape(1, 6, 8, 8) for part in range(3)
    )
    params["qkv"]["kernel"] = params["qkv"]["kernel"].at[:, :2].multiply(4.0)
    actual = jax.jit(lambda v, x: mixer.apply(v, x, grid=(6, 8)))(variables, x)
    actual = actual.reshape(1, 6, 8, 8)
    inner = ops.depthwise_conv2d(query + key, params["kernel"]) + params["bias"]
    expected = ops.depthwise_conv2d(inner * value, params["out"]["kernel"]) + params["out"]["bias"]
    error = _error(actual, expected)
    return [Finding("largest difference, relative", "0", f"{error:.0e}", error < 1e-5)]
