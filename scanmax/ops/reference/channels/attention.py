"""Gates of maps, as their equations."""

import jax
import jax.numpy as jnp

from scanmax.ops.reference.conv.conv2d import conv2d


def _times(x, gate):
    return x * jnp.broadcast_to(gate[..., None, None, :], x.shape)


def _add(x, bias):
    return x if bias is None else x + jnp.broadcast_to(bias, x.shape)


def _mlp(z, w1, w2, b1, b2, precision):
    hidden = jax.nn.relu(_add(jnp.matmul(z, w1, precision=precision), b1))
    return _add(jnp.matmul(hidden, w2, precision=precision), b2)


def _correlate(z, kernel):
    """y_c = sum_i kernel_i z_{c + i - k // 2}."""
    channels, half = z.shape[-1], kernel.shape[0] // 2
    total = jnp.zeros_like(z)
    for i in range(kernel.shape[0]):
        for c in range(channels):
            if 0 <= c + i - half < channels:
                total = total.at[..., c].add(kernel[i] * z[..., c + i - half])
    return total


def squeeze_excite(
    x, squeeze, excite, squeeze_bias=None, excite_bias=None, *, gate="sigmoid", precision=None
):
    """y = x gate(relu(mean(x) W_1 + b_1) W_2 + b_2)."""
    logits = _mlp(jnp.mean(x, (-3, -2)), squeeze, excite, squeeze_bias, excite_bias, precision)
    if gate == "sigmoid":
        return _times(x, jax.nn.sigmoid(logits))
    return _times(x, jnp.clip((logits + 3) / 6, 0, 1))


def efficient_channel_attention(x, kernel):
    """y = x sigmoid(kernel * mean(x))."""
    return _times(x, jax.nn.sigmoid(_correlate(jnp.mean(x, (-3, -2)), kernel)))


def pkcam(x, previous, local_kernel, global_kernel, fusion, output_fusion):
    """y = x (1 + sigmoid(output_fusion . (local, global)))."""
    z = jnp.mean(x, (-3, -2))
    sources = [jnp.tile(source, z.shape[-1] // source.shape[-1]) for source in previous]
    u = jax.nn.relu(jnp.einsum("...cs,s->...c", jnp.stack([*sources, z], -1), fusion))
    local = jax.nn.sigmoid(_correlate(z, local_kernel))
    far = jax.nn.sigmoid(_correlate(u, global_kernel))
    s = jax.nn.sigmoid(output_fusion[0] * local + output_fusion[1] * far)
    return _times(x, 1 + s)


def cbam_channel_gate(x, squeeze, excite, squeeze_bias=None, excite_bias=None, *, precision=None):
    """y = x sigmoid(mlp(mean(x)) + mlp(max(x)))."""
    weights = (squeeze, excite, squeeze_bias, excite_bias, precision)
    mean, largest = jnp.mean(x, (-3, -2)), jnp.max(x, (-3, -2))
    return _times(x, jax.nn.sigmoid(_mlp(mean, *weights) + _mlp(largest, *weights)))


def channel_summary(x):
    """y = (mean_c x, max_c x)."""
    return jnp.stack([jnp.mean(x, -1), jnp.max(x, -1)], -1)


def cbam_spatial_gate(x, kernel, scale=None, bias=None, *, precision=None):
    """y = x sigmoid(scale (kernel * (mean_c x, max_c x)) + bias)."""
    logits = conv2d(channel_summary(x), kernel, precision=precision)
    logits = logits if scale is None else logits * jnp.broadcast_to(scale, logits.shape)
    gate = jax.nn.sigmoid(_add(logits, bias))
    return x * jnp.broadcast_to(gate, x.shape)
