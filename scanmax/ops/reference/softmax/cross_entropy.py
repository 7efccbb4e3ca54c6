"""Cross-entropy of a linear head, with all its logits."""

import jax
import jax.numpy as jnp


def linear_cross_entropy(
    x, kernel, labels, bias=None, *, label_smoothing=0.0, return_prediction=False, precision=None
):
    """l = -sum_v p_v log(exp(z_v) / sum_w exp(z_w)), p = (1 - e) onehot(label) + e / V."""
    del precision
    logits = x @ kernel
    if bias is not None:
        logits = logits + jnp.broadcast_to(bias, logits.shape)
    scores = jnp.exp(logits - logits.max(-1, keepdims=True))
    logs = jnp.log(scores / scores.sum(-1, keepdims=True))
    classes = kernel.shape[-1]
    target = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    target = (1 - label_smoothing) * target + label_smoothing / classes
    losses = jnp.where(labels < 0, 0, -(target * logs).sum(-1))
    return (losses, logits.argmax(-1).astype(jnp.int32)) if return_prediction else losses
