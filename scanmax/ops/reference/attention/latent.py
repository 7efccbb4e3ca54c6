"""Multi-head latent attention, as its equations: expanded, whatever is cached."""

import jax.numpy as jnp

from scanmax.ops.reference.attention.dot_product import attention_matrix


def latent_attention_matrix(
    query,
    query_rotary,
    latent,
    key_rotary,
    key_up,
    bias=None,
    mask=None,
    *,
    scale=None,
    is_causal=False,
    normalizer="softmax",
    query_seq_lengths=None,
    key_value_seq_lengths=None,
    segment_ids=None,
    logits_soft_cap=None,
    local_window_size=None,
    precision=None,
):
    """P_h = normalizer(scale [q_h, p_h] [c U_h, r]^T), where the masks allow."""
    key = jnp.einsum("...sc,chk->...shk", latent, key_up, precision=precision)
    shared = jnp.repeat(key_rotary[..., None, :], key.shape[-2], axis=-2)
    return attention_matrix(
        jnp.concatenate([query, query_rotary], -1),
        jnp.concatenate([key, shared], -1),
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths,
        segment_ids=segment_ids,
        logits_soft_cap=logits_soft_cap,
        local_window_size=local_window_size,
        precision=precision,
    )


def latent_attention(
    query,
    query_rotary,
    latent,
    key_rotary,
    key_up,
    value_up,
    bias=None,
    mask=None,
    *,
    scale=None,
    is_causal=False,
    normalizer="softmax",
    query_seq_lengths=None,
    key_value_seq_lengths=None,
    segment_ids=None,
    logits_soft_cap=None,
    local_window_size=None,
    precision=None,
):
    """y_h = P_h v_h,   v_h = c W_h."""
    weights = latent_attention_matrix(
        query,
        query_rotary,
        latent,
        key_rotary,
        key_up,
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        normalizer=normalizer,
        query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths,
        segment_ids=segment_ids,
        logits_soft_cap=logits_soft_cap,
        local_window_size=local_window_size,
        precision=precision,
    )
    value = jnp.einsum("...sc,chv->...shv", latent, value_up, precision=precision)
    return jnp.einsum("...hts,...shv->...thv", weights, value, precision=precision)


def init_latent_cache(batch_shape, max_length, latent_dim, rotary_dim=0, *, dtype=jnp.float32):
    """S_0 = (): no latents, no keys."""
    shape = (*batch_shape, 0)
    return jnp.zeros((*shape, latent_dim), dtype), jnp.zeros((*shape, rotary_dim), dtype)


def extend_latent_cache(state, latent, key_rotary):
    """S_{t+n} = S_t, (c_{t+1}, r_{t+1}), ..., (c_{t+n}, r_{t+n})."""
    return tuple(jnp.concatenate([old, new], -2) for old, new in zip(state, (latent, key_rotary)))


def latent_attention_step(
    state,
    query,
    query_rotary,
    latent,
    key_rotary,
    key_up,
    value_up,
    bias=None,
    mask=None,
    *,
    scale=None,
    normalizer="softmax",
    logits_soft_cap=None,
    local_window_size=None,
    precision=None,
):
    """S_t = S_{t-1}, (c_t, r_t);   y_t = latent_attention(q_t, p_t, S_t)."""
    state = extend_latent_cache(state, latent[..., None, :], key_rotary[..., None, :])
    length = state[0].shape[-2]
    bias, mask = (x if x is None else x[..., None, :length] for x in (bias, mask))
    left = local_window_size[0] if isinstance(local_window_size, tuple) else local_window_size
    if left is not None:
        near = jnp.arange(length)[None] >= length - 1 - left
        mask = near if mask is None else mask & near.reshape((1,) * (mask.ndim - 2) + near.shape)
    y = latent_attention(
        query[..., None, :, :],
        query_rotary[..., None, :, :],
        *state,
        key_up,
        value_up,
        bias,
        mask,
        scale=scale,
        normalizer=normalizer,
        logits_soft_cap=logits_soft_cap,
        precision=precision,
    )
    return y[..., 0, :, :], state
