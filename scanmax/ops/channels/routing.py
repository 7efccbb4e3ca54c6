"""What keeps experts equally busy: noisy gates, the load they give, and losses on both."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from scanmax.ops.contract import accumulator_dtype, check_rank, check_shape, op, require
from scanmax.ops.selection import among_largest


@op("epsilon")
def noisy_logits(
    logits: Float[Array, "*B T E"],
    noise_logits: Float[Array, "*B T E"],
    noise: Float[Array, "*B T E"],
    *,
    epsilon: float = 0.01,
) -> Float[Array, "*B T E"]:
    """Logits of a router with noise of learned size, by which tokens choose other experts at times.

        H = logits + noise (softplus(noise_logits) + epsilon)

    Args:
      logits: of the router, [*B, T, E].
      noise_logits: of the size of the noise; a second map of the token.
      noise: standard normal numbers.
      epsilon: smallest size; 0.01 in the released code, 0 in print.

    Returns:
      [*B, T, E] in the dtype of logits: `expert_gates` of it are the paper's gates.

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> noisy = ops.noisy_logits(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]]))
      >>> [[round(float(number), 2) for number in row] for row in noisy]
      [[1.0, 1.7]]

    Reference: sparsely-gated-moe
    """
    check_rank(2, logits=logits)
    for name, array in (("noise_logits", noise_logits), ("noise", noise)):
        check_shape(name, array, logits.shape, "[*B, T, E]")
    dtype = accumulator_dtype(logits, noise_logits, noise)
    size = jax.nn.softplus(noise_logits.astype(dtype)) + epsilon
    return (logits.astype(dtype) + noise.astype(dtype) * size).astype(logits.dtype)


@op("top_k", "epsilon")
def expert_load(
    logits: Float[Array, "*B T E"],
    noise_logits: Float[Array, "*B T E"],
    noise: Float[Array, "*B T E"],
    *,
    top_k: int,
    epsilon: float = 0.01,
) -> Float[Array, "*B T E"]:
    """The chance that a token chooses each expert, were that expert's noise drawn anew.

        P_ti = Phi((logits_ti - t_ti) / (softplus(noise_logits_ti) + epsilon))

    t_ti is the top_k-th largest of the noisy logits of the other experts, and Phi the distribution
    of normal numbers. Its sum over tokens is the load of an expert as a smooth function, where the
    count has no gradient. Where top_k is E, every chance is 1.

    Args:
      logits: of the router, [*B, T, E].
      noise_logits: of the size of the noise.
      noise: standard normal numbers: those that the gates were drawn with.
      top_k: experts that a token chooses.
      epsilon: smallest size of the noise.

    Returns:
      [*B, T, E] in the dtype of logits.

    Raises:
      ValueError: shapes that differ, or top_k not in 1..E.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> zeros = jnp.zeros((1, 2))
      >>> ops.expert_load(zeros, zeros, zeros, top_k=1)
      Array([[0.5, 0.5]], dtype=float32)

    Reference: sparsely-gated-moe
    """
    noisy = noisy_logits(logits, noise_logits, noise, epsilon=epsilon)
    experts = logits.shape[-1]
    require(
        1 <= top_k <= experts,
        f"top_k={top_k} with logits of shape {logits.shape}: expected 1 to {experts}.",
    )
    if top_k == experts:
        return jnp.ones_like(logits)
    dtype = accumulator_dtype(logits, noise_logits, noise)
    noisy = noisy.astype(dtype)
    inside = among_largest(noisy, top_k)
    # Of those inside the one that would come in bounds them, of the others the last that is in.
    next_in = jnp.max(noisy, -1, keepdims=True, where=~inside, initial=-jnp.inf)
    last_in = jnp.min(noisy, -1, keepdims=True, where=inside, initial=jnp.inf)
    bound = jnp.where(inside, next_in, last_in)
    size = jax.nn.softplus(noise_logits.astype(dtype)) + epsilon
    return jax.scipy.stats.norm.cdf((logits.astype(dtype) - bound) / size).astype(logits.dtype)


@op("epsilon")
def squared_variation(x: Float[Array, "*B E"], *, epsilon: float = 1e-10) -> Float[Array, "*B"]:
    """The square of the coefficient of variation: 0 where all are equal.

        y = mean_e (x_e - m)^2 / (m^2 + epsilon),  m = mean_e x_e

    Of the sum of an expert's gates over a batch it is the loss of importance, of the sum of its
    `expert_load` that of load.

    Args:
      x: a number for each expert.
      epsilon: that no mean of 0 divides.

    Returns:
      [*B], in at least float32.

    Raises:
      ValueError: x without axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.squared_variation(jnp.array([1.0, 3.0]))
      Array(0.25, dtype=float32)

    Reference: sparsely-gated-moe
    """
    check_rank(1, x=x)
    x = x.astype(accumulator_dtype(x))
    return jnp.var(x, -1) / (jnp.square(jnp.mean(x, -1)) + epsilon)


@op()
def entropy_balance(logits: Float[Array, "*B T E"]) -> Float[Array, ""]:
    """The loss that keeps all experts in use by the entropy of their mean probabilities.

        y = sum_e p_e log p_e,   p = mean_t softmax(logits)_t

    in logarithms; -log E where experts are chosen alike, 0 where one always is.

    Args:
      logits: of the router; the mean runs over tokens and batch.

    Returns:
      A scalar in at least float32.

    Raises:
      ValueError: logits of fewer than two axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.entropy_balance(jnp.zeros((3, 4))).round(3)
      Array(-1.386, dtype=float32)

    Reference: sigma-moe-pkm
    """
    check_rank(2, logits=logits)
    logits = lax.collapse(logits.astype(accumulator_dtype(logits)), 0, logits.ndim - 1)
    logs = jax.nn.log_softmax(logits, -1)
    mean = jax.nn.logsumexp(logs, 0) - jnp.log(jnp.asarray(len(logs), logs.dtype))
    return jnp.sum(jnp.exp(mean) * mean)
