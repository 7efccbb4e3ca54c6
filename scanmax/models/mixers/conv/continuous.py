"""Convolution with kernels that are functions of the offset: CKConv, FlexConv, SMPConv."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.models.layers import normal_init, partitioned, zeros_init
from scanmax.models.mixers.conv.long import LongConvolution
from scanmax.models.parts.kernels import SampledKernel, centred_coordinates, past_coordinates
from scanmax.ops.contract import spread


class ContinuousConv(LongConvolution):
    """A depthwise convolution whose kernel is generated from its offsets, and a linear map.

    y = W (x * k + b), k sampled from a function on [-1, 1]^A (parts/kernels.py): the separable
    convolution of CCNN, for any of the generators; the papers' own layers, where every channel
    reads every channel, are in sequence/ckcnn.py and sequence/flexnet.py.

    On a grid the function has two coordinates and the kernel as many taps as `kernel_size` says, or
    reaches over the whole map, whatever its size: the offset of one map's side is then 1, so that a
    finer sampling of the same scene meets the same function (the sum is multiplied by
    resolution ** -2). Causal it has one coordinate, 1 for the token itself and -1 for the one
    max_length - 1 before. `resolution` samples a kernel of given size that many times as finely.

    Prefix tokens have no offset: each reads the mean of all tokens, and every token adds theirs by
    a learned weight each.

    Attributes:
      generator: a name of kernels.KERNELS.
      generator_options: fields of its module.
      kernel_size: taps per axis of a grid's kernel, odd; None reaches over the map.
      max_length: taps of a causal kernel.
      resolution: sampling rate over that of training; kernel values are divided by it per axis.
      mask: multiply the kernel by a Gaussian of learned size (kernels.GaussianMask).
      mask_options: its fields.
      nyquist: weight of the penalty of frequencies beyond what the taps can carry, which is sown
        into "losses"; of generator "magnet" alone.
    """

    formula: ClassVar[str] = "y_t = W (sum_s k(s) x_(t-s) + b),  k a network of the offset s"
    cost: ClassVar[str] = "T log T"
    causal_form: ClassVar[bool] = True

    generator: str = "siren"
    generator_options: Mapping[str, Any] | None = None
    kernel_size: int | None = None
    max_length: int = 1024
    resolution: float = 1.0
    mask: bool = False
    mask_options: Mapping[str, Any] | None = None
    nyquist: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        x, dim = x.astype(self.dtype), x.shape[-1]
        bias = self.param("bias", partitioned(zeros_init, ("embed",)), (dim,), self.param_dtype)
        if self.is_causal:
            y, new = self.convolve(
                x, lambda lags: self.past_kernel(lags, dim), state=state, segment_ids=segment_ids
            )
        else:
            self.packed(segment_ids, state)
            y, new = self.convolve_grid(x, self.grid_or_line(x, grid)), None
        y = y + spread(bias.astype(self.dtype), y)
        y = self.dense(dim, ("embed", "embed"), "out")(y)
        return y if state is None else (y, new)

    @nn.nowrap
    def past_kernel(self, lags: int, dim: int) -> Float[Array, "L D"]:
        """Weights of the last tokens; those further away than the kernel reaches are 0."""
        taps = round((self.max_length - 1) * self.resolution) + 1
        inside = min(lags, taps)
        kernel = self.sampled(dim)(past_coordinates(inside, taps), (taps,))
        return jnp.pad(kernel, ((0, lags - inside), (0, 0)))

    @nn.nowrap
    def convolve_grid(self, x: Float[Array, "B T D"], grid: tuple[int, int]):
        """The convolution of the map, and means and weighed sums for the prefix."""
        batch, _, dim = x.shape
        kernel = self.sampled(dim)(*centred_coordinates(grid, self.kernel_size, self.resolution))
        first, rest = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        y = ops.fft_conv(rest.reshape(batch, *grid, dim), kernel, mode="bidirectional")
        y, weights = y.reshape(rest.shape), None
        if self.prefix_tokens:
            shape, init = (self.prefix_tokens,), partitioned(normal_init, (None,))
            weights = self.param("prefix", init, shape, self.param_dtype).astype(self.dtype)
            mean = jnp.mean(x, axis=1, keepdims=True)
            added = jnp.einsum("p,bpd->bd", weights, first)[:, None]
            y = jnp.concatenate([jnp.broadcast_to(mean, first.shape), y + added], axis=1)
        self.sow_attention(x.shape[1], lambda: self.grid_matrix(x, kernel, weights, grid))
        return y

    @nn.nowrap
    def sampled(self, dim: int) -> SampledKernel:
        return SampledKernel(
            dim,
            generator=self.generator,
            generator_options=self.generator_options,
            mask=self.mask,
            mask_options=self.mask_options,
            nyquist=self.nyquist,
            resolution=self.resolution,
            is_causal=self.is_causal,
            name="kernel",
            **self.dtypes,
        )

    @nn.nowrap
    def grid_matrix(self, x, kernel, weights, grid) -> Float[Array, "B H T T"]:
        """The weights between tokens, means over the channels of a head."""
        B, T, P, H = *x.shape[:2], self.prefix_tokens, self.heads
        kernel = kernel.reshape(*kernel.shape[:-1], H, self.head_dim(x.shape[-1])).mean(-1)
        matrix = ops.long_conv_matrix(kernel, size=grid, mode="bidirectional")
        if P:
            columns = jnp.broadcast_to(weights.astype(matrix.dtype)[None, None], (H, T - P, P))
            rows = jnp.full((H, P, T), 1 / T, matrix.dtype)
            matrix = jnp.concatenate([rows, jnp.concatenate([columns, matrix], 2)], 1)
        return jnp.broadcast_to(matrix[None], (B, H, T, T))


class CkConv(ContinuousConv):
    """CKConv's kernel, a network of sines over the whole input, made depthwise."""

    formula: ClassVar[str] = "y_t = W (sum_s k(s) x_(t-s) + b),  k = W3 sin(w0 (W2 sin(w0 W1 s)))"
    papers: ClassVar[tuple[str, ...]] = ("ckconv", "ccnn-nd")


class FlexConv(ContinuousConv):
    """FlexConv's kernel, products of Gabor filters under a Gaussian of learned size, depthwise."""

    formula: ClassVar[str] = (
        "y_t = W (sum_s m(s) k(s) x_(t-s) + b),  k a MAGNet, m = exp(-(s - mu)^2 / 2 sigma^2)"
    )
    papers: ClassVar[tuple[str, ...]] = ("flexconv", "ccnn-nd")

    generator: str = "magnet"
    mask: bool = True


class SmpConv(ContinuousConv):
    """SMPConv's kernel of moving points; without the small kernel beside it and the batch norms.

    The released blocks add a depthwise 5 x 5 convolution to the kernel of points, norm both, and
    stand between two linear maps; the plain kernel is built here, as the released sequence networks
    have it in the place of CKConv's.
    """

    formula: ClassVar[str] = (
        "y_t = W (sum_s k(s) x_(t-s) + b),  k(s) = sum_i w_i max(0, 1 - |s - p_i|_1 / r_i)"
    )
    papers: ClassVar[tuple[str, ...]] = ("smpconv",)

    generator: str = "points"
