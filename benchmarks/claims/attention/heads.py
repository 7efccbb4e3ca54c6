"""Heads that convolve, heads that are gated, crossed attentions, and convolution as attention."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from scanmax import ops

EXACT = 1e-6


def _draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def _error(actual, expected) -> float:
    return float(jnp.abs(actual - expected).max() / jnp.abs(expected).max())


def _equal(what, actual, expected, tolerance=EXACT):
    error = _error(actual, expected)
    return Finding(what, "equal", f"{error:.0e} apart", error <= tolerance)


@claim("gpsa-convolution", paper="convit-gpsa")
def gpsa_convolution(quick):
    """Gated positional attention can be a sqrt(H) x sqrt(H) convolution, and starts near one."""
    grid, heads = (14, 14), 9
    value, kernel = _draw((196, heads, 4), (heads, 4, 8))
    query, key = _draw((196, heads, 4), (196, heads, 4), seed=1)
    # Tap (i, j) of the convolution reads the channels of head i + 3 j alone.
    taps = jnp.zeros((3, 3, heads, 4, 8))
    for head in range(heads):
        taps = taps.at[head % 3, head // 3, head].set(kernel[head])
    image = value.reshape(*grid, heads * 4)
    expected = ops.conv2d(image, taps.reshape(3, 3, heads * 4, 8))
    interior = (slice(1, -1), slice(1, -1))

    def error(strength, gate):
        weight = ops.gpsa_position_weight(heads, strength=strength)
        y = ops.gpsa(query, key, value, weight, jnp.full(heads, gate), grid=grid)
        y = jnp.einsum("thv,hvd->td", y, kernel).reshape(*grid, 8)
        return _error(y[interior], expected[interior])

    sharp, start = error(50.0, 99.0), error(1.0, 1.0)
    rows = [
        Finding(
            "alpha 50, gates closed to content",
            "a convolution",
            f"{sharp:.0e} apart",
            sharp <= EXACT,
        ),
        Finding(
            "alpha 1, gates at sigmoid(1), as training starts",
            "a soft convolution",
            f"{start:.2f} of the largest output apart",
            EXACT < start < 1,
        ),
    ]
    weight = ops.gpsa_position_weight(heads)
    matrix = ops.gpsa_matrix(query, key, weight, jnp.ones(heads), grid=grid)
    y, x = np.divmod(np.arange(196), 14)
    inner = (y > 0) & (y < 13) & (x > 0) & (x < 13)
    target = np.stack([(y + h % 3 - 1) * 14 + x + h // 3 - 1 for h in range(heads)])
    looks = np.mean(np.asarray(jnp.argmax(matrix, -1))[:, inner] == target[:, inner])
    rows.append(
        Finding("heads that look most at their tap then", "all", f"{looks:.0%}", bool(looks > 0.99))
    )
    return rows


@claim("moh-is-mha", paper="moh")
def moh_is_mha(quick):
    """With every head on and gates of one, mixture-of-head attention is multi-head attention."""
    query, key, value = _draw(*[(64, 8, 16)] * 3)
    expected = ops.dot_product_attention(query, key, value)
    zeros = jnp.zeros((64, 6))
    gates = ops.moh_gates(zeros, zeros[:, :2], zeros[:, :2], top_k=6)
    rows = []
    for form in ("masked", "gathered"):
        y = ops.moh_attention(query, key, value, gates, shared_heads=2, top_k=6, form=form)
        rows.append(_equal(f"output, {form} form", y, expected))
    few = ops.moh_gates(*_draw((64, 6)), zeros[:, :2], zeros[:, :2], top_k=3)
    keywords = {"shared_heads": 2, "top_k": 3}
    dense, gathered = (
        ops.moh_attention(query, key, value, few, form=form, **keywords)
        for form in ("masked", "gathered")
    )
    rows.append(_equal("5 of 8 heads, gathered against masked", gathered, dense))
    return rows


@claim("moh-load-balance", paper="moh")
def moh_load_balance(quick):
    """The load-balance loss pulls to even use of heads, though even is not the least of all."""
    tokens, heads, top_k = 512, 8, 2
    even = float(ops.head_load_balance(jnp.zeros((tokens, heads)), top_k=top_k))
    spread, popular = _draw((tokens, heads), (heads,))
    losses = [
        float(ops.head_load_balance(spread + push * popular[None], top_k=top_k))
        for push in (0.0, 0.3, 1.0, 3.0)
    ]

    def loss(logits):
        return ops.head_load_balance(logits, top_k=top_k)

    # Every token its own pair of heads in turn: the choice is even, so nothing pulls.
    turns = 3.0 * jnp.eye(heads)[np.arange(tokens) % heads]
    turns = turns + 2.0 * jnp.eye(heads)[(np.arange(tokens) + 1) % heads]
    pull = float(jnp.abs(jax.grad(loss)(turns)).max() / jnp.abs(jax.grad(loss)(3 * spread)).max())
    # Two tokens barely prefer the first head, one is sure of the second.
    fooled = jnp.log(jnp.array([[0.51, 0.49], [0.51, 0.49], [1e-6, 1.0]]))
    lower = float(ops.head_load_balance(fooled, top_k=1))
    return [
        Finding("loss of even routing, top 2", "2, the least", f"{even:.3f}", abs(even - 2) < 1e-5),
        Finding(
            "loss while some heads grow popular",
            "grows",
            ", ".join(f"{value:.3f}" for value in losses),
            losses == sorted(losses) and losses[0] > even - 1e-5,
        ),
        Finding(
            "gradient at an even choice, over that at an uneven one",
            "0",
            f"{pull:.0e}",
            pull < 1e-4,
        ),
        Finding(
            "yet not the least of all: 2 unsure tokens on one of 2 heads, a sure one on the other",
            "(even: 1)",
            f"{lower:.3f}",
            lower < 1,
        ),
    ]


@claim("dcal-cross-attention", paper="dcal")
def dcal_cross_attention(quick):
    """Pair-wise attention without the pair, and global-local with all queries, are attention."""
    query, key, value, other_key, other_value = _draw(*[(50, 6, 16)] * 5)
    plain = ops.dot_product_attention(query, key, value)
    pair = (query, key, value, other_key, other_value)
    hidden = ops.pairwise_cross_attention(*pair, jnp.zeros(50, bool))
    scores = _draw((50,), seed=1)[0]
    whole, _ = ops.global_local_cross_attention(query, key, value, scores, num_queries=50)
    some, token = ops.global_local_cross_attention(query, key, value, scores, num_queries=5)
    matrices = [ops.attention_matrix(*_draw(*[(50, 6, 16)] * 2, seed=i)) for i in range(12)]
    row = ops.attention_rollout(matrices, num_queries=1)
    product = np.eye(50)
    for matrix in matrices:
        product = (0.5 * np.asarray(matrix, np.float64).mean(0) + 0.5 * np.eye(50)) @ product
    disturbed = _error(ops.pairwise_cross_attention(*pair), plain)
    return [
        _equal("pair-wise, the other image masked out", hidden, plain),
        Finding("pair-wise, both images", "disturbed", f"{disturbed:.2f} apart", disturbed > 0.01),
        _equal("global-local, 100% of the queries", whole, plain),
        _equal("global-local, 10%: rows of self-attention", some, plain[token]),
        _equal("class token's row of the rollout, carried alone", row, product[:1]),
    ]


@claim("convolution-as-attention", paper="vit-performs-convolution")
def convolution_as_attention(quick):
    """One attention layer over patches performs any convolution, with 9 heads while it fits."""
    rows = []
    for side, patch, heads in ((3, 2, 9), (5, 2, 9), (3, 4, 9), (7, 4, 9), (7, 2, 25)):
        grid = (4, 5)
        image, kernel = _draw((4 * patch, 5 * patch, 3), (side, side, 3, 4))
        weights = ops.convolution_attention_weights(kernel, patch_size=patch, grid=grid)
        bias, out = weights
        x = ops.patchify(image, patch).reshape(20, 1, -1)
        value = jnp.concatenate([x, jnp.zeros_like(x[:1])])
        query, key = jnp.zeros((20, len(out), 1)), jnp.zeros((21, 1, 1))
        y = jnp.einsum("thd,hde->te", ops.dot_product_attention(query, key, value, bias), out)
        expected = ops.patchify(ops.conv2d(image, kernel), patch).reshape(20, -1)
        # Fewer heads that ignore the content cannot do it: their blocks span less.
        rank = np.linalg.matrix_rank(np.asarray(out).reshape(len(out), -1))
        error = _error(y, expected)
        rows.append(
            Finding(
                f"{side} x {side} over patches of {patch}",
                f"{heads} heads, equal",
                f"{len(out)} heads, rank {rank}, {error:.0e} apart",
                error <= EXACT and heads == len(out) == int(rank),
            )
        )
    return rows
