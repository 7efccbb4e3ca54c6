"""How tokens choose and weigh their heads: gates, routers with and without parameters, balance."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require


def _chosen(probabilities: Array, top_k: int) -> Array:
    """Whether each head is among the token's top_k; of equal ones the first."""
    heads = probabilities.shape[-1]
    places = lax.top_k(probabilities, top_k)[1]
    number = jnp.arange(heads).reshape((1,) * (places.ndim) + (heads,))
    return jnp.any(places[..., None] == number.astype(places.dtype), -2)


def _check_routing(routed_logits: Array, top_k: int) -> None:
    check_rank(2, routed_logits=routed_logits)
    heads = routed_logits.shape[-1]
    require(
        1 <= top_k <= heads,
        f"top_k={top_k} with routed_logits of shape {routed_logits.shape}: expected 1 to {heads}.",
    )


@op("top_k", "rescale")
def moh_gates(
    routed_logits: Float[Array, "*B T R"],
    shared_logits: Float[Array, "*B T F"] | None = None,
    balance_logits: Float[Array, "*B T 2"] | None = None,
    *,
    top_k: int,
    rescale: bool = True,
) -> Float[Array, "*B T H"]:
    """The gate of every head for each token: F shared heads, then R routed ones.

        p = softmax(routed_logits) where among the token's top_k, else 0
        (a, b) = softmax(balance_logits)
        gates = [a softmax(shared_logits), b p]

    With `rescale`, as in the released code, p is divided by its sum, and the four softmaxes are
    multiplied by their number of terms (top_k for p), so that gates are one on average. Then p is
    constant for top_k = 1: the router learns from `head_load_balance` alone.

    Args:
      routed_logits: [*B, T, R].
      shared_logits: [*B, T, F]; None where no head is shared.
      balance_logits: [*B, T, 2], shared first; None leaves a and b out.
      top_k: routed heads that a token keeps.
      rescale: False for the gates as the paper prints them.

    Returns:
      [*B, T, F + R] in the dtype of routed_logits; heads that are not chosen get exactly 0.

    Raises:
      ValueError: top_k is not in 1..R, or a shape does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.moh_gates(jnp.array([[0.0, 3.0, 3.0]]), jnp.zeros((1, 2)), jnp.zeros((1, 2)), top_k=2)
      Array([[1., 1., 0., 1., 1.]], dtype=float32)

    Reference: moh
    """
    _check_routing(routed_logits, top_k)
    *batch, T, _ = routed_logits.shape
    if shared_logits is not None:
        check_rank(2, shared_logits=shared_logits)
        check_shape(
            "shared_logits", shared_logits, (*batch, T, shared_logits.shape[-1]), "[*B, T, F]"
        )
    check_shape("balance_logits", balance_logits, (*batch, T, 2), "[*B, T, 2]")
    dtype = accumulator_dtype(routed_logits, shared_logits, balance_logits)

    def softmax(logits):
        return jax.nn.softmax(logits.astype(dtype), axis=-1)

    routed = softmax(routed_logits)
    routed = jnp.where(_chosen(routed, top_k), routed, jnp.zeros_like(routed))
    if rescale:
        routed = routed / jnp.sum(routed, -1, keepdims=True) * top_k
    parts = [routed]
    if shared_logits is not None:
        shared = softmax(shared_logits)
        parts.insert(0, shared * shared.shape[-1] if rescale else shared)
    if balance_logits is not None:
        balance = softmax(balance_logits) * (2 if rescale else 1)
        sides = (
            [balance[..., 1:]] if shared_logits is None else [balance[..., :1], balance[..., 1:]]
        )
        parts = [part * side for part, side in zip(parts, sides)]
    return jnp.concatenate(parts, -1).astype(routed_logits.dtype)


@op()
def moh_query_logits(query: Float[Array, "*B T R K"]) -> Float[Array, "*B T R"]:
    """Routing logits without parameters: how long the queries of a token's heads are.

        logits_h = n_h / std(n),   n_h = |q_h|

    What MoH-LLaMA routes by, whose heads were trained before there was a router. The deviation is
    that of a sample, over R - 1; where all heads are equally long it is taken as 1.

    Args:
      query: [*B, T, R, K] of the routed heads, before rotary positions, which change no length.

    Returns:
      [*B, T, R] in the dtype of query.

    Raises:
      ValueError: fewer than two heads.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.moh_query_logits(jnp.array([[[3.0, 4.0], [0.0, 3.0], [1.0, 0.0]]]))
      Array([[2.5, 1.5, 0.5]], dtype=float32)

    Reference: moh
    """
    check_rank(3, query=query)
    heads = query.shape[-2]
    require(heads >= 2, f"query has shape {query.shape}; expected at least two routed heads.")
    squares = jnp.sum(jnp.square(query.astype(accumulator_dtype(query))), -1)
    norms = _root(squares)
    centred = norms - jnp.mean(norms, -1, keepdims=True)
    deviation = _root(jnp.sum(jnp.square(centred), -1, keepdims=True) / (heads - 1))
    return (norms / jnp.where(deviation == 0, 1, deviation)).astype(query.dtype)


def _root(x):
    """The square root, whose gradient at 0 is 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, jnp.ones_like(x))), 0)


@op("shared_heads", "top_k", "straight_through")
def moh_quantized_gates(
    routed_logits: Float[Array, "*B T R"],
    *,
    shared_heads: int,
    top_k: int,
    straight_through: bool = True,
) -> Float[Array, "*B T H"]:
    """Gates that are one or zero, which leave what a trained model's heads give as it is.

        gates = [1, ..., 1, g],   g_h = 1 where h is among the token's top_k, else 0
        dg_h = dp_h where it is, else 0,   p = softmax(routed_logits)

    Args:
      routed_logits: [*B, T, R], of `moh_query_logits` or a router.
      shared_heads: F, heads in front whose gates are one.
      top_k: routed heads that a token keeps.
      straight_through: the gradient of the scores in place of that of the steps, as the paper
        trains; False has none, as the released code, which is for inference.

    Returns:
      [*B, T, F + R] in the dtype of routed_logits.

    Raises:
      ValueError: top_k is not in 1..R, or shared_heads is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.moh_quantized_gates(jnp.array([[0.5, 2.0, 1.0]]), shared_heads=1, top_k=2)
      Array([[1., 0., 1., 1.]], dtype=float32)

    Reference: moh
    """
    _check_routing(routed_logits, top_k)
    require(shared_heads >= 0, f"shared_heads={shared_heads}: expected at least 0.")
    dtype = routed_logits.dtype
    p = jax.nn.softmax(routed_logits.astype(accumulator_dtype(routed_logits)), axis=-1)
    chosen = _chosen(p, top_k)
    gates = chosen.astype(p.dtype)
    if straight_through:
        gates = gates + jnp.where(chosen, p - lax.stop_gradient(p), jnp.zeros_like(p))
    shared = jnp.ones((*gates.shape[:-1], shared_heads), p.dtype)
    return jnp.concatenate([shared, gates], -1).astype(dtype)


@op("top_k", "rescale")
def head_load_balance(
    routed_logits: Float[Array, "*B T R"], *, top_k: int, rescale: bool = True
) -> Float[Array, ""]:
    """The loss that keeps a router from always choosing the same heads.

        sum_i P_i f_i,   P_i = mean_t softmax(routed_logits)_ti,   f_i = mean_t [t chooses head i]

    f has no gradient: heads that are chosen often get smaller probabilities.

    Args:
      routed_logits: [*B, T, R]; the means run over tokens and batch.
      top_k: routed heads that a token keeps.
      rescale: multiply by R, as the released code does: then uniform routing gives top_k, else
        top_k / R.

    Returns:
      A scalar in at least float32.

    Raises:
      ValueError: top_k is not in 1..R.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> logits = jnp.array([[9.0, 0.0], [9.0, 0.0]])  # both tokens choose the first of two heads
      >>> ops.head_load_balance(logits, top_k=1).round(2)
      Array(2., dtype=float32)

    Reference: moh
    """
    _check_routing(routed_logits, top_k)
    heads = routed_logits.shape[-1]
    dtype = accumulator_dtype(routed_logits)
    probabilities = lax.collapse(jax.nn.softmax(routed_logits.astype(dtype), axis=-1), 0, -1)
    share = jnp.mean(_chosen(probabilities, top_k).astype(dtype), 0)
    loss = jnp.sum(jnp.mean(probabilities, 0) * lax.stop_gradient(share))
    return loss * heads if rescale else loss
