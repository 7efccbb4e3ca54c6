"""Claims about attention in linear order: what its weights sum to, tell apart, and span."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.slopes import heads, slope
from scanmax import ops


def _tokens(T, width, number, seed=0):
    """Arrays [T, 1, width], as a head has them."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(T, 1, width)), jnp.float32) for _ in range(number)]


def _rows_sum_to_one(matrix):
    error = float(jnp.abs(matrix.sum(-1) - 1).max())
    return Finding("farthest sum of a row from 1, 196 tokens", "0", f"{error:.0e}", error < 1e-4)


@claim("mala-sharpens", paper="mala-magnitude-aware-linear-attention")
def mala_sharpens(quick):
    """Weights sum to one and sharpen as the query grows, those of linear attention do not."""
    query, key = (jax.nn.elu(x) + 1 for x in _tokens(196, 32, 2))
    matrix = functools.partial(
        ops.mala_attention_matrix, feature_map=None, average=False, scale=1.0, epsilon=0.0
    )
    findings = [_rows_sum_to_one(ops.mala_attention_matrix(query, key, feature_map=None))]
    # Features of the paper, small enough that every query has several positive weights.
    query = query / 196

    def ratios(weights):
        order = jnp.argsort(query[0, 0] @ key[:, 0].T)
        largest, near_the_mean = order[-1], order[-60]
        return weights[0, 0, largest] / weights[0, 0, near_the_mean]

    def linear(query):
        return ops.linear_attention_matrix(query, key, normalize=True, is_causal=False)

    factors = (1.0, 2.0, 4.0, 8.0)
    mala = [float(ratios(matrix(c * query, key))) for c in factors]
    plain = [float(ratios(linear(c * query))) for c in factors]
    listed = [", ".join(f"{x:.2f}" for x in values) for values in (mala, plain)]
    what = "ratio of two weights for phi(q) times 1, 2, 4, 8"
    rises = all(after > before + 1e-3 for before, after in itertools.pairwise(mala))
    fixed = max(plain) - min(plain) < 1e-4
    findings.append(Finding(f"{what}, MALA", "grows", listed[0], rises))
    findings.append(Finding(f"{what}, linear attention", "fixed", listed[1], fixed))
    return findings


@claim("inline-is-injective", paper="inline-attention")
def inline_is_injective(quick):
    """Linear attention gives q and 2 q the same weights, injective and softmax attention do not."""
    query, key = _tokens(196, 32, 2)
    two = jnp.concatenate([query[:1], 2 * query[:1]])

    def distance(matrix):
        return float(jnp.abs(matrix[0, 0] - matrix[0, 1]).sum())

    # Queries as many as keys, of which the first two are q and 2 q.
    query = jnp.concatenate([two, query[2:]])
    findings = [_rows_sum_to_one(ops.inline_attention_matrix(query, key))]
    for name, collides, matrix in (
        (
            "linear attention (relu)",
            True,
            ops.linear_attention_matrix(
                query, key, feature_map="relu", normalize=True, is_causal=False
            ),
        ),
        ("injective, identity", False, ops.inline_attention_matrix(query, key)),
        ("injective, relu", False, ops.inline_attention_matrix(query, key, feature_map="relu")),
        ("softmax", False, ops.attention_matrix(query[None], key[None])[0]),
    ):
        found = distance(matrix)
        findings.append(
            Finding(
                f"sum of |w(q) - w(2q)|, {name}",
                "0" if collides else "not 0",
                f"{found:.2g}",
                (found < 1e-5) == collides,
            )
        )
    return findings


def _ranks(y, tolerance=1e-4):
    """Singular values above `tolerance` of the largest, and exp(entropy) of their squares."""
    values = np.linalg.svd(np.asarray(y[:, 0], np.float64), compute_uv=False)
    shares = values**2 / (values**2).sum()
    effective = np.exp(-(shares * np.log(shares + 1e-30)).sum())
    return int((values > tolerance * values[0]).sum()), float(effective)


@claim("linear-attention-rank", paper="rala-ravlt")
def linear_attention_rank(quick):
    """Outputs of linear attention have a low rank that RALA lifts to that of softmax attention."""
    findings = []
    for dim, width in ((16, 64), (64, 64)):
        query, key = _tokens(196, dim, 2)
        value, gate = _tokens(196, width, 2, seed=1)
        options = {"feature_map": "elu", "normalize": True, "is_causal": False}
        linear = _ranks(ops.linear_attention(query, key, value, **options))
        ungated = _ranks(ops.rala_attention(query, key, value))
        rala = _ranks(ops.rala_attention(query, key, value, gate))
        softmax = _ranks(ops.dot_product_attention(query[None], key[None], value[None])[0])
        for name, paper, ranks, holds in (
            ("linear attention", f"at most {dim}, low", linear, linear[1] < softmax[1] / 2),
            ("RALA without gate", f"at most {dim}", ungated, ungated[0] <= dim),
            ("RALA", "as softmax", rala, rala[0] == softmax[0] and rala[1] > softmax[1] / 2),
            ("softmax", f"{width}", softmax, softmax[0] == width),
        ):
            holds = holds and (name in ("RALA", "softmax") or ranks[0] <= dim)
            findings.append(
                Finding(
                    f"rank (effective) of 196 outputs, keys {dim} and values {width} wide: {name}",
                    paper,
                    f"{ranks[0]} ({ranks[1]:.1f})",
                    holds,
                )
            )
    return findings


@claim("performer-error", paper="t2t-vit")
def performer_error(quick):
    """The error of random features falls as the root of their number, where tokens are small."""
    # Of a size at which the estimate's variance is small: it grows as exp(|q + k|^2 / sqrt(K)).
    query, key = (x / 2 for x in _tokens(64, 16, 2))
    exact = ops.attention_matrix(query[None], key[None])[0, 0]

    def error(w):
        phi = [ops.positive_random_features(x, w) for x in (query, key)]
        estimate = ops.linear_attention_matrix(*phi, normalize=True, is_causal=False)[0]
        return jnp.linalg.norm(estimate - exact) / jnp.linalg.norm(exact)

    numbers, seeds = (32, 128, 512), jax.random.split(jax.random.key(0), 4)
    projections = [ops.orthogonal_random_features(seed, numbers[-1], 16) for seed in seeds]
    errors = [float(np.mean([error(w[:number]) for w in projections])) for number in numbers]
    power = float(np.polyfit(np.log(numbers), np.log(errors), 1)[0])
    return [
        Finding(
            "relative error of the weights with 32, 128, 512 features",
            "falls",
            ", ".join(f"{x:.3f}" for x in errors),
            errors == sorted(errors, reverse=True),
        ),
        Finding(
            "exponent of the error in the features", "-0.5", f"{power:.2f}", -0.65 < power < -0.35
        ),
    ]


@claim("scaling-attention-orders", paper="mpcvit")
def scaling_attention_orders(quick):
    """Scaling attention is the same in quadratic order and in linear order."""
    arrays = _tokens(256, 32, 3)
    linear = ops.scaling_attention(*arrays)
    quadratic = ops.scaling_attention(*arrays, form="parallel")
    error = float(jnp.linalg.norm(linear - quadratic) / jnp.linalg.norm(quadratic))
    return [Finding("relative difference, 256 tokens", "0", f"{error:.0e}", error < 1e-5)]


def _slope(op, count=3, width=32, **options):
    return lambda T: (jax.jit(functools.partial(op, **options)), heads(T, count, width))


def _performer(query, key, value):
    w = ops.orthogonal_random_features(jax.random.key(0), 64, query.shape[-1])
    query = ops.positive_random_features(query, w, stabilize="token")
    key = ops.positive_random_features(key, w, stabilize="sequence")
    return ops.linear_attention(query, key, value, normalize=True, is_causal=False)


def _cosformer(query, key, value, is_causal=False):
    phi = (ops.cosine_features(x) for x in (query, key))
    return ops.linear_attention(*phi, value, normalize=True, is_causal=is_causal)


@claim("cosformer-orders", paper="nas-efficient-transformer-mixed")
def cosformer_orders(quick):
    """cosFormer in linear order is rectified attention whose weights fall as a cosine."""
    query, key, value = _tokens(256, 32, 3)
    y = _cosformer(query, key, value)
    places = jnp.arange(256)
    fall = jnp.cos(jnp.pi / 2 * (places[:, None] - places[None]) / 256)
    weights = jnp.einsum("ihk,jhk->hij", jax.nn.relu(query), jax.nn.relu(key)) * fall[None]
    weights = weights / weights.sum(-1, keepdims=True)
    expected = jnp.einsum("hij,jhk->ihk", weights, value)
    error = float(jnp.linalg.norm(y - expected) / jnp.linalg.norm(expected))
    least = float(weights.min())
    return [
        Finding("relative difference, 256 tokens", "0", f"{error:.0e}", error < 1e-5),
        Finding("least weight", "not negative", f"{least:.1g}", least >= 0),
    ]


for _name, _make in {
    "cosine_features, bidirectional": _slope(_cosformer),
    "cosine_features, causal": _slope(_cosformer, is_causal=True),
    "cross_covariance_attention": _slope(ops.cross_covariance_attention),
    "inline_attention": _slope(ops.inline_attention),
    "inline_attention, causal": _slope(ops.inline_attention, is_causal=True),
    "linear_attention, taylor": _slope(
        ops.linear_attention, width=8, feature_map="taylor", normalize=True
    ),
    "mala_attention": _slope(ops.mala_attention),
    "mala_attention, causal": _slope(ops.mala_attention, is_causal=True),
    "positive_random_features, bidirectional": _slope(_performer),
    "rala_attention": _slope(ops.rala_attention, count=4),
    "scaling_attention": _slope(ops.scaling_attention),
    "scaling_attention, causal": _slope(ops.scaling_attention, is_causal=True),
}.items():
    slope(_name)(_make)
