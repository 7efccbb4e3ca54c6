"""Gates between neighbours, pair after pair."""

import jax.numpy as jnp


def gated_pairwise_pool(x, kernel, bias=None, *, precision=None):
    """y_t = g_t x_2t + (1 - g_t) x_(2t+1), g_t = sigmoid([x_2t, x_(2t+1)] W + b)."""
    del precision
    done = []
    for t in range(0, x.shape[-2] - 1, 2):
        first, second = x[..., t, :], x[..., t + 1, :]
        z = jnp.einsum("...d,dg->...g", jnp.concatenate([first, second], -1), kernel)
        gate = 1 / (1 + jnp.exp(-(z if bias is None else z + jnp.broadcast_to(bias, z.shape))))
        done.append(gate * first + (1 - gate) * second)
    if x.shape[-2] % 2:
        done.append(x[..., -1, :])
    return jnp.stack(done, -2)
