"""Claims of the papers that reduce, merge or cluster tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.slopes import heads, slope
from scanmax import create_model, ops
from scanmax.models.analysis import count_multiply_adds
from scanmax.models.vision.token_reduction import TokenReduction


def _multiply_adds(name: str, **reduction) -> float:
    """Of a DeiT at 224 pixels, in thousand millions."""
    model = create_model(f"deit_{name}_patch16_224", token_reduction=reduction)
    return count_multiply_adds(model, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)) / 1e9


@claim("evit-multiply-adds", paper="evit")
def evit_multiply_adds(quick):
    """DeiT-S needs 4.6, 4.0, 3.5, 3.0, 2.6 and 2.3 G multiply-adds at keep rates 1 to 0.5."""
    paper = {1.0: 4.6, 0.9: 4.0, 0.8: 3.5, 0.7: 3.0, 0.6: 2.6, 0.5: 2.3}
    findings = []
    for rate in (0.7, 0.5) if quick else paper:
        here = _multiply_adds("small", method="evit", keep_rate=rate)
        tokens = TokenReduction("evit", keep_rate=rate).schedule(197, 12)[::3]
        what = f"keep rate {rate}, tokens {'-'.join(map(str, tokens))}: G multiply-adds"
        holds = round(here, 1) == paper[rate]
        findings.append(Finding(what, f"{paper[rate]}", f"{here:.2f}", holds))
    return findings


@claim("mctf-multiply-adds", paper="mctf")
def mctf_multiply_adds(quick):
    """With 16 tokens fused in each block but the first, DeiT-T needs 0.71 and DeiT-S 2.60 G."""
    findings = []
    for size, paper in (("tiny", 0.71), ("small", 2.60)):
        here = _multiply_adds(size, method="mctf")
        what = f"DeiT-{size}, 197 to 21 tokens: G multiply-adds, matching included"
        findings.append(Finding(what, f"{paper:.2f}", f"{here:.2f}", abs(here / paper - 1) < 0.02))
    return findings


@claim("tokens-kept-are-bitwise", paper="evit")
def kept_tokens_are_bitwise(quick):
    """With keep rate 1 nothing is removed, and the model is the plain one, to the last bit."""
    model = create_model(
        "deit_tiny_patch16_224", img_size=16, patch_size=4, dim=16, depth=4, heads=2, num_classes=5
    )
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(1), images)
    kept = model.clone(token_reduction={"method": "evit", "keep_rate": 1.0})
    programs = [str(jax.make_jaxpr(m.apply)(variables, images)) for m in (model, kept)]
    same = programs[0] == programs[1]
    return [
        Finding("the same program, operation by operation", "yes", "yes" if same else "no", same)
    ]


def _relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def _there_and_back(maps, size, scale):
    """Clustering and reconstruction of maps, with nothing in between."""
    tokens = maps.reshape(-1, maps.shape[-1])
    centers = ops.token_clustering(maps, size, scale=scale).reshape(-1, maps.shape[-1])
    y = ops.token_reconstruction(tokens, centers, centers, scale=scale, normalize="sum")
    return y.reshape(maps.shape)


@claim("clustering-and-back", paper="expedit-dense-vit")
def clustering_and_back(quick):
    """Clustering and reconstruction keep what a map consists of, where pooling blurs it."""
    noise = jax.random.normal(jax.random.key(0), (8, 8, 32))
    same = _relative(_there_and_back(noise, (8, 8), 100.0), noise)
    # Stripes that no cell of the pooling follows.
    rows, columns = jnp.mgrid[:16, :16]
    levels = jax.random.normal(jax.random.key(1), (3, 32))
    stripes = levels[(rows + columns + 1) // 5 % 3]
    clustered = _relative(_there_and_back(stripes, (8, 8), 10.0), stripes)
    pooled = ops.adaptive_avg_pool2d(stripes, (8, 8))
    bilinear = _relative(jax.image.resize(pooled, stripes.shape, "linear"), stripes)
    return [
        Finding("as many centres as tokens, large scale: error", "0", f"{same:.1e}", same < 1e-5),
        Finding(
            "piecewise constant map, a quarter of the tokens: error",
            "near lossless",
            f"{clustered:.1e} (average pooling and bilinear: {bilinear:.2f})",
            clustered < 1e-3 < 0.1 < bilinear,
        ),
    ]


@claim("spherical-k-means", paper="kmax-deeplab")
def spherical_k_means(quick):
    """With plain projections and renormalised centres, the cross-attention is k-means."""
    rng = np.random.default_rng(0)
    directions = np.eye(4, 8)[rng.integers(0, 4, 400)] + 0.3 * rng.normal(size=(400, 8))
    points = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    ours = theirs = points[:4]
    worst = 0.0
    for _ in range(10):
        ours = ops.kmeans_cross_attention(ours[:, None], points[:, None], points[:, None])[:, 0]
        ours = ours / jnp.maximum(jnp.linalg.norm(ours, axis=1, keepdims=True), 1e-12)
        nearest = np.argmax(points @ theirs.T, axis=1)
        theirs = np.stack([points[nearest == m].sum(0) for m in range(4)])
        theirs /= np.maximum(np.linalg.norm(theirs, axis=1, keepdims=True), 1e-12)
        worst = max(worst, float(np.abs(ours - theirs).max()))
    what = "ten steps on four blobs: largest difference to spherical k-means in numpy"
    return [Finding(what, "0", f"{worst:.1e}", worst < 1e-5)]


def _flops(function, *arrays) -> float:
    return jax.jit(function).lower(*arrays).cost_analysis()["flops"]


@claim("clusters-cost-linear", paper="context-cluster")
def clusters_cost_linear(quick):
    """Clustering with a fixed number of centres costs time linear in the points."""
    findings = []
    for denominator in ("count", "similarity"):
        counts = [
            _flops(
                functools.partial(ops.context_cluster, grid=(side, side), denominator=denominator),
                *heads(side**2, 2),
            )
            for side in (32, 64)
        ]
        growth = np.log2(counts[1] / counts[0]) / 2
        what = f"exponent of the operations in the points, denominator {denominator}"
        findings.append(Finding(what, "1", f"{growth:.2f}", bool(abs(growth - 1) < 0.05)))
    return findings


@claim("slots-keep-a-constant", paper="glmix")
def slots_keep_a_constant(quick):
    """Without attention between the slots, clustering and dispatch reproduce a constant map."""
    x = jax.random.normal(jax.random.key(0), (196, 32))
    slots = ops.adaptive_avg_pool2d(x.reshape(14, 14, 32), (8, 8)).reshape(64, 32)
    matrix = ops.slot_matrix(ops.slot_logits(x, slots, scale=10.0))[0]
    error = float(jnp.abs(matrix.sum(-1) - 1).max())
    return [Finding("largest deviation of a row's sum from 1", "0", f"{error:.1e}", error < 1e-5)]


@claim("sets-of-one", paper="attsets")
def sets_of_one(quick):
    """Pooling does not depend on the order of a set, and leaves a single element as it is."""
    x, logits = jax.random.normal(jax.random.key(0), (2, 24, 64))
    order = jax.random.permutation(jax.random.key(1), 24)
    moved = float(jnp.abs(ops.set_pool(x[order], logits[order]) - ops.set_pool(x, logits)).max())
    alone = float(jnp.abs(ops.set_pool(x[:1], logits[:1]) - x[0]).max())
    return [
        Finding("change by another order", "0", f"{moved:.1e}", moved < 1e-5),
        Finding("change of a single element", "0", f"{alone:g}", alone == 0),
    ]


def _grid(T):
    side = int(T**0.5)
    return next((y, T // y) for y in range(side, 0, -1) if T % y == 0)


@slope("slots: aggregate, dispatch")
def _slots(T):
    rng = np.random.default_rng(0)
    x, slots = (rng.normal(size=(n, 64)).astype(np.float32) for n in (T, 64))

    def mix(x, slots):
        logits = ops.slot_logits(x, slots)
        return ops.dispatch_tokens(ops.aggregate_tokens(x, logits), logits)

    return jax.jit(mix), [x, slots]


@slope("context_cluster")
def _context_cluster(T):
    return jax.jit(functools.partial(ops.context_cluster, grid=_grid(T))), heads(T, 2)


@slope("kmeans_cross_attention")
def _kmeans(T):
    key, value = heads(T, 2, number=1)
    return jax.jit(ops.kmeans_cross_attention), [key[:64], key, value]


@slope("token_clustering")
def _clustering(T):
    y, x = _grid(T)
    (tokens,) = heads(T, 1, number=1)
    run = functools.partial(ops.token_clustering, size=(y // 4, x // 4), iterations=2, window=3)
    return jax.jit(run), [tokens.reshape(y, x, -1)]
