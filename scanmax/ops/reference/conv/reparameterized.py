"""Merged kernels, tap by tap."""

import jax.numpy as jnp


def fold_batch_norm(kernel, mean, variance, scale=None, bias=None, *, epsilon=1e-5):
    """kernel' = kernel g, bias' = bias - mean g, g = scale / sqrt(variance + epsilon)."""
    scale = jnp.ones_like(mean) if scale is None else scale
    bias = jnp.zeros_like(mean) if bias is None else bias
    gain = scale / jnp.sqrt(variance + epsilon)
    return kernel * jnp.broadcast_to(gain, kernel.shape), bias - mean * gain


def merge_dilated_kernels(kernel, branches, *, dilations):
    """merged[c + d (i - k // 2)] += branch[i] for every tap of every branch."""
    merged, centre = jnp.asarray(kernel), len(kernel) // 2
    for branch, dilation in zip(branches, dilations):
        half = len(branch) // 2
        for i in range(len(branch)):
            for j in range(len(branch)):
                place = [centre + dilation * (n - half) for n in (i, j)]
                merged = merged.at[place[0], place[1]].add(branch[i, j])
    return merged
