"""The Terminator (Zhang, 2024): wide blocks without residuals, whose kernels a slow network makes.

Five blocks on maps of the image's size, each of ten branches: three products of maps with the
map that a hyper-kernel has met, one of them gated by itself, the fast network's own values, a map
gated by what these say, four convolutions whose kernels come of places under a map; and the outputs
of earlier blocks beside them. A linear map of all channels, a standardisation in groups by batch
and image, gelu. Beside the task the slow networks learn to resemble each other (`slow_loss`).

Numbers are those of the authors' configuration for CIFAR-10. Their code, whose main file is gone
from its repository, gives the same outputs and gradients. Where it and the abstract differ: ten
branches and five blocks are the code's. There, batch norms and the contexts of local kernels know
no averages (`batch_alone=True`): what an image is told to be depends on those beside it. Here they
keep averages for evaluation by default; training is the same. A learned number that the code adds
to each block's input is in no list of parameters there and stays 0; it is left out, and what scales
the renormalisation of local kernels stays 1 and 0.1 for the same reason. The gate of channels has
next to no effect: its image is standardised channel by channel right behind it, as there.

    >>> import scanmax
    >>> scanmax.model_info("terminator_cifar10").params
    1336855

Reference: hyperzzw-terminator
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import rematerialised
from scanmax.models.layers import constrain_last, gelu
from scanmax.models.parts.hyper_kernels import (
    HyperGate,
    HyperKernel,
    LocalBranch,
    RecursiveGate,
    grouped_standardisation,
    he_in_init,
    mixed,
    shift,
    slow_loss,
    standardised,
)
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import PlainHost, check_size

BRANCHES = 10


class SfneBlock(nn.Module):
    """Slow-fast neural encoding: ten branches and earlier maps, joined, standardised, bent.

    Attributes:
      features: channels of the result.
      groups: of the standardisation.
      img_size: side of the map whose offsets are learned; others interpolate them.
      slow: fields of the `HyperKernel` of the global branches; `local`, `channels`, `gate_channels`
        and `gate_places` those of the others.
      local_sizes: sides of the four local kernels.
      dropout_rate: of whole channels.
      averages: how statistics are kept: momentum, frozen_statistics, batch_alone.
    """

    features: int
    groups: int
    img_size: int
    slow: dict[str, Any]
    local: dict[str, Any]
    channels: dict[str, Any]
    gate_channels: dict[str, Any]
    gate_places: dict[str, Any]
    local_sizes: tuple[int, int, int, int]
    averages: dict[str, Any]
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Y X C"],
        earlier: tuple[Float[Array, "B Y X c"], ...] = (),
        train: bool = False,
    ) -> tuple[Float[Array, "B Y X F"], Float[Array, "Y X C"]]:
        """The map, and the hyper-kernel of its global branches."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width, grid, side = x.shape[-1], x.shape[1:3], self.img_size
        kernel = HyperKernel(width, (side,) * 2, name="slow", **self.slow, **dtypes)(grid)
        # What the kernel makes of the map is a factor of its products and an input of a unit.
        met = x * kernel.astype(x.dtype)[None]
        fast = RecursiveGate(side, name="slow_unit", **dtypes)(met)
        fast = standardised(fast + RecursiveGate(side, name="fast_unit", **dtypes)(x))
        mix = standardised(mixed(width, "mixer", he_in_init, dtypes)(x))
        gate = HyperGate(self.channels, name="channel_gate", **dtypes)
        gated = standardised(gate(x, x))
        out, out_mix, out_gated = (ops.hyper_zzw(x, kernel, value) for value in (fast, mix, gated))
        seen = HyperGate(self.gate_channels, self.gate_places, side, name="gate", **dtypes)(x, out)
        local = [
            LocalBranch(size, self.local, name=f"local{index}", **self.averages, **dtypes)(
                *pair, train
            )
            for index, (size, pair) in enumerate(
                zip(self.local_sizes, ((gated, x), (x, gated), (x, mix), (mix, x)), strict=True)
            )
        ]
        tiled = [jnp.tile(map_, (1, 1, 1, width // map_.shape[-1])) for map_ in earlier]
        joined = [out, out_mix, out_gated, nn.silu(out), fast, seen, *local, *tiled]
        y = mixed(self.features, "bottleneck", he_in_init, dtypes)(jnp.concatenate(joined, -1))
        y = grouped_standardisation(self.groups, name="norm", **self.averages, **dtypes)(y, train)
        y = gelu(y) + shift(self)
        y = nn.Dropout(self.dropout_rate, (1, 2), deterministic=not train)(y)
        return tap(self, "output", constrain_last(y)), kernel


class Terminator(PlainHost):
    """Blocks of ten branches on maps of the image's size, the mean over all places, a head.

    Attributes:
      num_classes: width of the head; 0 gives the mean of the last map [B, C].
      dims: channels of each block's result, multiples of those before and of `groups`; those of the
        image divide the first.
      earlier: for each block, how many blocks back the outputs are that it reads besides, 2 or
        more.
      groups: of the standardisation behind each block.
      img_size: side of the images whose offsets of places are learned; for others these are
        interpolated and kernels sampled anew. Maps that are no squares are multiplied as if
        zeros made them so.
      slow_hidden_dim, slow_layers: of the networks that make kernels as large as the map.
      local_hidden_dim, local_layers: of those that make the four local kernels.
      local_sizes: sides of these, odd.
      channel_hidden_dim: of the gate of channels that three branches read.
      gate_hidden_dims: of the last gate, over channels and over places.
      gate_layers: of the networks of all gates.
      omega: frequency of the filters; the released configuration that is public does not name it.
      slow_weight: of the loss between slow networks, sown into "losses" in training.
      block_dropout_rate: of whole channels behind each block but the first.
      batch_alone: batch norms and local kernels read the batch at hand in evaluation too, as
        released, and keep no averages.
      norm_momentum: weight of the old averages at each training step.
      frozen_statistics: averages stay as they are and are read in training too: for fine-tuning.
    """

    num_classes: int = 10
    dims: tuple[int, ...] = (12, 36, 72, 144, 288)
    earlier: tuple[tuple[int, ...], ...] = ((), (), (2,), (2,), (2, 3))
    groups: int = 12
    img_size: int = 32
    slow_hidden_dim: int = 64
    slow_layers: tuple[int, ...] = (3, 2, 2, 2, 2)
    local_hidden_dim: int = 32
    local_layers: int = 2
    local_sizes: tuple[int, int, int, int] = (3, 9, 5, 7)
    channel_hidden_dim: int = 32
    gate_hidden_dims: tuple[int, int] = (16, 64)
    gate_layers: int = 2
    omega: float = 1.0
    slow_weight: float = 1.0
    block_dropout_rate: float = 0.05
    batch_alone: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        self.check(images)
        x, maps, kernels = images.astype(self.dtype), [], []
        for index in range(len(self.dims)):
            joined = tuple(maps[index - back] for back in self.earlier[index])
            x, kernel = self.block(index)(x, joined, train)
            x = tap(self, f"block{index}" if index else "stem", x)
            maps.append(x)
            kernels.append(kernel)
        if as_maps:
            return tuple(maps)
        if train and self.slow_weight:
            self.sow("losses", "slow", self.slow_weight * slow_loss(kernels))
        return self.classify(jnp.mean(x, axis=(1, 2)), train, kernel_init=he_in_init)

    @nn.nowrap
    def block(self, index: int) -> SfneBlock:
        """The module of a block."""

        def network(hidden: int, layers: int) -> dict[str, Any]:
            return {"hidden": hidden, "layers": layers, "omega": self.omega}

        over_channels, over_places = self.gate_hidden_dims
        return rematerialised(SfneBlock, self.remat, static=(3,))(
            self.dims[index],
            self.groups,
            self.img_size,
            slow=network(self.slow_hidden_dim, self.slow_layers[index]),
            local=network(self.local_hidden_dim, self.local_layers),
            channels=network(self.channel_hidden_dim, self.gate_layers),
            gate_channels=network(over_channels, self.gate_layers),
            gate_places=network(over_places, self.gate_layers),
            local_sizes=self.local_sizes,
            averages={
                "momentum": self.norm_momentum,
                "frozen_statistics": self.frozen_statistics,
                "batch_alone": self.batch_alone,
            },
            dropout_rate=self.block_dropout_rate if index else 0.0,
            name=f"block_{index:02d}",
            **self.dtypes,
        )

    @nn.nowrap
    def check(self, images: Float[Array, "B Y X C"]) -> None:
        """Refuses widths that do not divide each other, and lists of other lengths."""
        check_size(images, 1)
        count = len(self.dims)
        if len(self.earlier) != count or len(self.slow_layers) != count:
            raise UserError(
                f"earlier={self.earlier} and slow_layers={self.slow_layers} must name as many "
                f"blocks as dims={self.dims}"
            )
        widths = (images.shape[-1], *self.dims)
        for before, width in zip(widths, self.dims):
            if width % before or width % self.groups:
                raise UserError(
                    f"dims={self.dims}: {width} must be a multiple of the {before} channels "
                    f"before it and of groups={self.groups}"
                )
        for index, backs in enumerate(self.earlier):
            if any(not 2 <= back <= index for back in backs):
                raise UserError(f"earlier={self.earlier}: block {index} has no output {backs} back")

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of each block's map."""
        return tuple(Feature(f"block_{i:02d}", 1, dim) for i, dim in enumerate(self.dims))


VARIANTS = {"terminator_cifar10": Variant(1_336_855, (32, 32, 3), "hyperzzw-terminator", {})}

register_family("terminator", Terminator, VARIANTS)
