"""The recursive gates of g^n convolution."""

import jax.numpy as jnp


def recursive_gate(x, gates, kernels, biases=None, *, precision=None):
    """p_1 = x g_0, p_(k+1) = (p_k W_k + b_k) g_k."""
    width = x.shape[-1]
    y, gates = x * gates[..., :width], gates[..., width:]
    for k, kernel in enumerate(kernels):
        width = kernel.shape[1]
        y = jnp.einsum("...i,io->...o", y, kernel)
        if biases is not None:
            y = y + jnp.broadcast_to(biases[k], y.shape)
        y, gates = y * gates[..., :width], gates[..., width:]
    return y
