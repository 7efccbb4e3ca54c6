"""Multi-scale selective scans: one direction over the whole map, the others over a smaller one."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.mixers.scan.cross import GatedScan, PerDirection, add_prefix, split_prefix
from scanmax.models.mixers.scan.selective import SelectiveSsm
from scanmax.models.parts.channel_attention import SqueezeExcite
from scanmax.ops.scan.cross import SMALL_DIRECTIONS


class MambaMultiScale(GatedScan):
    """MSVMamba's MS2D: rows at full size, reversed rows and both columns at half the size.

    A map of T pixels is read in 1.75 T tokens instead of 4 T. The smaller map is another filter of
    the same inner tokens, with a stride. The released code reads its three sequences one after
    another as one, with one set of parameters, and the state runs on from each into the next;
    `joined=False` scans each by itself with parameters of its own. Prefix tokens stand before
    sequences and behind reversed ones, at both sizes. No matrix over tokens is sown: the tokens of
    the smaller map are others.

    Attributes:
      joined: the small sequences are scanned as one (released), or each by itself.
      small_filter_size: sides of the filter that makes the smaller map.
      stride: of that filter.
      reduction: of a squeeze-and-excitation of the sum, over the grid; 0 leaves it out.
    """

    formula: ClassVar[str] = (
        "y = out(se(norm(ssm_1(conv(x))) + enlarge(sum_r norm(ssm_2(read_r(conv_2(x)))))) silu(z))"
    )
    papers: ClassVar[tuple[str, ...]] = ("msvmamba",)

    d_state: int = 1
    joined: bool = True
    small_filter_size: int = 7
    stride: int = 2
    reduction: int = 8

    @nn.nowrap
    def mix(self, x: Float[Array, "B T C"], grid, dim: int) -> Float[Array, "B T C"]:
        prefix, (batch, _, channels) = self.prefix_tokens, x.shape
        small_grid = tuple(-(-side // self.stride) for side in grid)
        small = self.filter_map(x, grid, "small_conv", self.small_filter_size, self.stride)
        x = self.filter_map(x, grid, "conv", self.filter_size)
        full, sequences = ops.multi_scale_scan(
            x[:, prefix:].reshape(batch, *grid, channels),
            small[:, prefix:].reshape(batch, *small_grid, channels),
        )
        norm = self.create_norm()
        full = jnp.concatenate([x[:, :prefix], full], axis=1)
        full = norm(self.create_ssm(SelectiveSsm, dim)(full))
        sequences = add_prefix(sequences, small[:, :prefix], SMALL_DIRECTIONS)
        sequences = norm(self.scan_small(sequences, dim))
        first, sequences = split_prefix(sequences, prefix, SMALL_DIRECTIONS)
        maps = ops.multi_scale_merge(full[:, prefix:], sequences, grid, small_grid)
        if self.reduction:
            maps = SqueezeExcite(
                reduction=self.reduction, use_bias=False, name="squeeze_excite", **self.dtypes
            )(maps)
        tokens = jax.lax.collapse(maps, 1, 3)
        return jnp.concatenate([full[:, :prefix] + first, tokens], axis=1)

    @nn.nowrap
    def scan_small(self, x: Float[Array, "R B T C"], dim: int) -> Float[Array, "R B T C"]:
        """The scan of the smaller map's sequences."""
        if not self.joined:
            return self.create_ssm(PerDirection, dim, "small_ssm")(x)
        count, batch, length, channels = x.shape
        x = jnp.moveaxis(x, 0, 1).reshape(batch, count * length, channels)
        y = self.create_ssm(SelectiveSsm, dim, "small_ssm")(x)
        return jnp.moveaxis(y.reshape(batch, count, length, channels), 1, 0)
