"""Selective kernels, branch by branch."""

import jax
import jax.numpy as jnp


def selective_kernel(
    branches,
    squeeze,
    excite,
    squeeze_bias=None,
    excite_bias=None,
    *,
    by="channels",
    precision=None,
):
    """y = sum_i a_i x_i, a = softmax_i(relu(mean(sum_i x_i) W + b) V_i + c_i)."""
    maps = [branches[..., i, :, :, :] for i in range(branches.shape[-4])]
    pooled = jnp.mean(sum(maps), axis=(-3, -2) if by == "channels" else (-2, -1))
    hidden = jnp.einsum("...d,dr->...r", pooled, squeeze)
    if squeeze_bias is not None:
        hidden = hidden + jnp.broadcast_to(squeeze_bias, hidden.shape)
    logits = []
    for i in range(len(maps)):
        logit = jnp.einsum("...r,rd->...d", jnp.maximum(hidden, 0), excite[i])
        if excite_bias is not None:
            logit = logit + jnp.broadcast_to(excite_bias[i], logit.shape)
        logits.append(logit)
    y = 0
    for i, gate in enumerate(jax.nn.softmax(jnp.stack(logits), 0)):
        gate = gate[..., None, None, :] if by == "channels" else gate[..., None, None]
        y = y + gate * maps[i]
    return y
