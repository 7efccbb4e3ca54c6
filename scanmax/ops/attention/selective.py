"""Selective self-attention: softmax attention with a temperature for every query and value."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

from scanmax.ops.attention.dot_product import attention_matrix, dot_product_attention
from scanmax.ops.attention.normalizer import Normalizer
from scanmax.ops.contract import accumulator_dtype, check_choice, check_rank, op, require

COMBINATIONS = ("sum", "product")
POSITIONS = ("sigmoid", "exponential")


@op("combine", "position")
def selective_temperature(
    token: Float[Array, "*B T #H"] | None = None,
    strength: Float[Array, ""] | Float[Array, "#H"] | None = None,
    num_keys: Real[Array, "*B T"] | Real[Array, "T"] | Real[Array, ""] | int | None = None,
    *,
    combine: str = "sum",
    position: str = "sigmoid",
) -> Float[Array, "..."]:
    """The inverse temperature of each token, from what it says and from how many keys it reads.

        token term     tanh(f)
        position term  1 + sigmoid(a) log n,  or  1 + exp(-exp(a)) log n with position "exponential"
        "sum":         tau = tanh(f) + 1 + g log n
        "product":     tau = (1 + tanh(f)) (1 + g log n)

    g is sigmoid(a) or exp(-exp(a)). Where f is 0 and g vanishes tau is 1 and attention is as it
    was. The authors' code has the position term alone (`token` None, position "exponential", a
    from 1.5). How the two terms combine could not be settled: "sum" is the default here. A value's
    temperature is the token term alone, 1 + tanh(f): leave out strength.

    Args:
      token: [*B, T, H], f of each token and head, or [*B, T, 1]; None leaves the term out.
      strength: a, a scalar or [H]; None leaves the term out.
      num_keys: n, a number, [T] or [*B, T]: the keys that the query reads. Needed with strength.
      combine: "sum" or "product".
      position: "sigmoid" or "exponential".

    Returns:
      What broadcasts to [*B, T, H]: without token, axes of the batch only where num_keys has them.

    Raises:
      ValueError: neither term, strength without num_keys or the reverse, an unknown option.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.selective_temperature(strength=jnp.array(0.0), num_keys=jnp.array([1, 8])).round(2)
      Array([[1.  ],
             [2.04]], dtype=float32)

    Reference: ssa-selective-self-attention
    """
    check_choice("combine", combine, COMBINATIONS)
    check_choice("position", position, POSITIONS)
    require(token is not None or strength is not None, "token and strength are both None.")
    require(
        (strength is None) == (num_keys is None),
        "strength and num_keys belong together: give both or neither.",
    )
    dtype = accumulator_dtype(token, strength)
    result = (token if token is not None else strength).dtype
    if token is not None:
        check_rank(2, token=token)
        token = jnp.tanh(token.astype(dtype))
        if strength is None:
            return (1 + token).astype(result)
    require(strength.ndim <= 1, f"strength has shape {strength.shape}; expected a scalar or [H].")
    counts = jnp.atleast_1d(jnp.asarray(num_keys))
    length = jnp.log(jnp.maximum(counts.astype(dtype), 1))[..., None]  # [*B, T, 1]
    strength = strength.astype(dtype)
    gain = jax.nn.sigmoid(strength) if position == "sigmoid" else jnp.exp(-jnp.exp(strength))
    term = 1 + gain.reshape((1,) * (length.ndim - 1) + (-1,)) * length
    if token is None:
        return term.astype(result)
    require(
        term.ndim <= token.ndim,
        f"num_keys has shape {counts.shape}; expected [T] or [*B, T] = {token.shape[:-1]}.",
    )
    term = term.reshape((1,) * (token.ndim - term.ndim) + term.shape)
    return (token + term if combine == "sum" else (1 + token) * term).astype(result)


def _times(name, temperature, x):
    """x [*B, T, H, K] times temperature, which broadcasts to [*B, T, H]."""
    if temperature is None:
        return x
    shape = (1,) * (x.ndim - 1 - temperature.ndim) + temperature.shape
    fits = len(shape) == x.ndim - 1 and all(a in (1, b) for a, b in zip(shape, x.shape))
    require(
        fits,
        f"{name} has shape {temperature.shape}; expected to broadcast to {x.shape[:-1]}.",
    )
    dtype = accumulator_dtype(x, temperature)
    return (x.astype(dtype) * temperature.astype(dtype).reshape(shape)[..., None]).astype(x.dtype)


@op(
    "is_causal",
    "normalizer",
    "form",
    "chunk_size",
    "precision",
    "implementation",
    forward_mode="parallel",
)
def selective_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
    query_temperature: Float[Array, "..."] | None = None,
    value_temperature: Float[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    key_value_seq_lengths: Int[Array, "*B"] | None = None,
    form: str | None = None,
    chunk_size: int | tuple[int, int] | None = None,
    precision=None,
    implementation=None,
) -> Float[Array, "*B T H V"]:
    """Attention whose queries choose how sharply to look, and whose values how loudly to speak.

    y_t = sum_s softmax_s(tau_q(t) scale q_t . k_s + bias) tau_v(s) v_s

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      value: [*B, S, G, V].
      query_temperature: broadcasts to [*B, T, H], see `selective_temperature`; None is 1.
      value_temperature: broadcasts to [*B, S, G]; None is 1.
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      scale: scalar factor of the logits; None is K ** -0.5.
      is_causal: mask out the keys after each query.
      normalizer: as in `dot_product_attention`, like all that follow.
      key_value_seq_lengths: [*B] integers; later keys are masked out.
      form: "parallel" or "chunked".
      chunk_size: the largest block of the chunked form.
      precision: of every matrix product.
      implementation: "xla", or "cudnn" where it serves.

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: a shape, dtype or option that does not fit.
      NotImplementedError: implementation="cudnn" where it cannot serve.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, value = jnp.zeros((2, 1, 4)), jnp.array([[[2.0]], [[4.0]]])
      >>> loudness = jnp.array([[1.0], [0.5]])  # [S, G]
      >>> ops.selective_attention(x, x, value, None, loudness)[:, 0, 0]
      Array([2., 2.], dtype=float32)

    Reference: ssa-selective-self-attention
    """
    check_rank(3, query=query, key=key, value=value)
    return dot_product_attention(
        _times("query_temperature", query_temperature, query),
        key,
        _times("value_temperature", value_temperature, value),
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        key_value_seq_lengths=key_value_seq_lengths,
        form=form,
        chunk_size=chunk_size,
        precision=precision,
        implementation=implementation,
    )


@op("is_causal", "normalizer", "precision")
def selective_attention_matrix(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    query_temperature: Float[Array, "..."] | None = None,
    value_temperature: Float[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    key_value_seq_lengths: Int[Array, "*B"] | None = None,
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `selective_attention` mixes the values.

    P_ts = softmax_s(tau_q(t) scale q_t . k_s + bias) tau_v(s)

    Args:
      query: [*B, T, H, K].
      key: [*B, S, G, K], where G divides H.
      query_temperature: broadcasts to [*B, T, H]; None is 1.
      value_temperature: broadcasts to [*B, S, G]; None is 1.
      bias: added to the logits, broadcasts to [*B, H, T, S].
      mask: bool, True = attend, broadcasts to [*B, H, T, S].
      scale: scalar factor of the logits; None is K ** -0.5.
      is_causal: as in `selective_attention`, like all that follow.
      normalizer: a name or a `Normalizer`.
      key_value_seq_lengths: [*B] integers.
      precision: of the matrix product.

    Returns:
      [*B, H, T, S] in the dtype of query.

    Raises:
      ValueError: a shape, dtype or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, loudness = jnp.zeros((2, 1, 4)), jnp.array([[1.0], [0.5]])
      >>> ops.selective_attention_matrix(x, x, None, loudness)[0, 0]
      Array([0.5 , 0.25], dtype=float32)

    Reference: ssa-selective-self-attention
    """
    check_rank(3, query=query, key=key)
    weights = attention_matrix(
        _times("query_temperature", query_temperature, query),
        key,
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        key_value_seq_lengths=key_value_seq_lengths,
        precision=precision,
    )
    if value_temperature is None:
        return weights
    ones = jnp.ones((*key.shape[:-1], 1), weights.dtype)
    loudness = _times("value_temperature", value_temperature, ones)[..., 0]  # [*B, S, G]
    loudness = jnp.repeat(loudness, query.shape[-2] // key.shape[-2], axis=-1)
    return weights * jnp.swapaxes(loudness, -1, -2)[..., None, :]
