"""Local attention: average filters, dense references, cost in the pixels, reach."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from benchmarks.claims.slopes import slope
from scanmax import ops
from scanmax.models.mixers import create_mixer
from scanmax.ops import reference

WIDTH = 16


def maps(T: int, count: int = 3, width: int = 32, number: int = 2) -> list[np.ndarray]:
    """`count` random maps [Y, X, heads, width] of T pixels, about as high as wide."""
    side = 1 << (T.bit_length() - 1) // 2
    rng = np.random.default_rng(0)
    shape = (side, T // side, number, width)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(count)]


def _slope(name, op, **options):
    slope(name)(lambda T: (jax.jit(lambda *a: op(*a, **options)), maps(T)))


_slope("window_attention", ops.window_attention, window_size=8)
_slope("window_attention, shifted", ops.window_attention, window_size=8, shift=4)
_slope("neighborhood_attention, 7 x 7", ops.neighborhood_attention, kernel_size=7)
_slope("halo_attention", ops.halo_attention, block_size=8, halo=3)
_slope("msa_conv", ops.msa_conv)


@slope("aggregated_attention, 49 pooled keys")
def _aggregated(T):
    pooled = np.random.default_rng(1).normal(size=(2, 49, 2, 32)).astype(np.float32)
    return jax.jit(lambda *a: ops.aggregated_attention(*a)), [*maps(T), *pooled]


def _error(actual, expected) -> float:
    return float(jnp.abs(actual - expected).max() / jnp.abs(expected).max())


def _mixer_at_init(name, grid, **options):
    """A mixer and its variables, without compiling: normal kernels, zero biases, unit scales."""
    mixer = create_mixer(name, heads=2, options=options)
    x = jnp.zeros((1, grid[0] * grid[1], WIDTH))
    shapes = jax.eval_shape(lambda key: mixer.init(key, x, grid=grid), jax.random.key(0))
    rng = np.random.default_rng(0)

    def start(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name or "bias'" in name:
            return np.full(leaf.shape, float("scale" in name), np.float32)
        return (0.02 * rng.normal(size=leaf.shape)).astype(np.float32)

    return mixer, jax.tree_util.tree_map_with_path(start, nn.unbox(shapes))


@claim("msa-conv-average", paper="tic-msa-conv")
def msa_conv_average(quick):
    """Attention evaluated like a convolution: with equal scores it is an average filter."""
    (value,) = maps(32 * 32, 1)
    zeros = jnp.zeros_like(value)
    padded = np.pad(np.float64(value), ((1, 1), (1, 1), (0, 0), (0, 0)))
    mean = sum(padded[i : i + 32, j : j + 32] for i in range(3) for j in range(3)) / 9
    error = _error(ops.msa_conv(zeros, zeros, value), mean)
    return [
        Finding("largest difference to a 3 x 3 mean, relative", "0", f"{error:.0e}", error < 1e-5)
    ]


@claim("msa-conv-any-size", paper="tic-msa-conv")
def msa_conv_any_size(quick):
    """The same weights run at any image size, with identical outputs away from the edges."""
    mixer, params = _mixer_at_init("msa_conv", (16, 16))
    large = np.random.default_rng(1).normal(size=(24, 24, WIDTH)).astype(np.float32)
    small = large[4:20, 4:20]

    def run(x):
        apply = jax.jit(lambda tokens: mixer.apply(params, tokens, grid=x.shape[:2]))
        return apply(x.reshape(1, -1, WIDTH)).reshape(x.shape)

    error = _error(run(small)[1:-1, 1:-1], run(large)[5:19, 5:19])
    return [
        Finding(
            "largest difference of the interiors at 64 and 96 pixels (patches of 4), relative",
            "0",
            f"{error:.0e}",
            error < 1e-5,
        )
    ]


@claim("aggregated-dense", paper="transnext")
def aggregated_dense(quick):
    """Aggregated attention is one softmax over 9 + P keys, without unfolding them."""
    rng = np.random.default_rng(0)
    arrays = [*maps(196, 3, 24), *rng.normal(size=(2, 49, 2, 24)).astype(np.float32)]
    for shape in ((2, 3, 3), (2, *arrays[0].shape[:2], 49), (*arrays[0].shape[:3], 9)):
        arrays.append(rng.normal(size=shape).astype(np.float32))
    expected = jax.jit(reference.aggregated_attention)(*arrays)
    error = _error(ops.aggregated_attention(*arrays), expected)
    return [
        Finding(
            "largest difference to dense masked attention over 196 + 49 keys, relative",
            "0",
            f"{error:.0e}",
            error < 1e-5,
        )
    ]


@claim("stm-reach", paper="stm-evaluation")
def stm_reach(quick):
    """At init, global attention's receptive field is wider than windows and 7 x 7 pixels."""
    side = 28
    x = np.random.default_rng(1).normal(size=(1, side * side, WIDTH)).astype(np.float32)
    middle = side * side // 2 + side // 2
    row, column = np.divmod(np.arange(side * side), side)
    distance = np.hypot(row - side // 2, column - side // 2)

    def radius(name, **options):
        mixer, params = _mixer_at_init(name, (side, side), **options)

        def centre(x):
            return jnp.sum(mixer.apply(params, x, grid=(side, side))[0, middle])

        influence = np.abs(np.asarray(jax.jit(jax.grad(centre))(x)))[0].sum(-1)
        influence[middle] = 0
        return float((influence * distance).sum() / influence.sum())

    widest = radius("spatial_reduction", ratio=4)
    reaches = {
        "shifted windows of 7": radius("shifted_window"),
        "7 x 7 neighbourhoods": radius("neighborhood"),
    }
    return [
        Finding(
            f"mean distance of a layer's influence, spatial reduction against {name}",
            "wider",
            f"{widest:.1f} against {reach:.1f} pixels",
            widest > reach,
        )
        for name, reach in reaches.items()
    ]


@claim("tcsr-parameters", paper="tcsr")
def tcsr_parameters(quick):
    """Neighbourhood attention hardly grows with its neighbourhood, a convolution as its area."""
    counts = {}
    for size in (7, 13):
        mixer = create_mixer("neighborhood", heads=4, options={"kernel_size": size})
        shapes = jax.eval_shape(
            lambda key, x, mixer=mixer: mixer.init(key, x, grid=(16, 16)),
            jax.random.key(0),
            jnp.zeros((1, 256, 64)),
        )
        counts[size] = sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(shapes)))
    growth = counts[13] / counts[7]
    return [
        Finding(
            "parameters at 64 channels with 7 x 7 and with 13 x 13 neighbours",
            "nearly the same",
            f"{counts[7]} and {counts[13]}",
            growth < 1.12,
        ),
        Finding(
            "those of a 13 x 13 convolution, in times of it",
            "fewer",
            f"{13 * 13 * 64**2 / counts[13]:.0f}",
            counts[13] < 13 * 13 * 64**2 / 10,
        ),
    ]
