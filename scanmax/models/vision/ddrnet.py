"""DDRNet: a branch that keeps an eighth of the image beside one that shrinks, each adding to both.

A stem of two convolutions and two stages; then steps, each of residual blocks in either branch,
after which the fine map is added to the coarse one through strided convolutions, and the coarse one
to the fine through a 1x1 convolution, enlarged bilinearly. A bottleneck ends each branch; their sum
is widened, pooled and classified. These are the classifiers of the release, of which the networks
for road scenes start; their pyramid pooling and heads are not here.

    >>> import scanmax
    >>> [feature.stride for feature in scanmax.model_info("ddrnet39").features]
    [4, 8, 16, 16, 32, 32]

Reference: ddrnet
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import constrain_last, fan_in_uniform, ones_init
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import PlainHost, check_size
from scanmax.models.vision.resnet import ResNetBlock


class DualBlock(ResNetBlock):
    """ResNet's block, whose bottleneck widens twice, and which need not bend the sum.

    Attributes:
      bends: a relu follows.
    """

    bends: bool = True

    @property
    def out_dim(self) -> int:
        """Channels that the block gives."""
        return 2 * self.dim if self.bottleneck else self.dim

    @nn.nowrap
    def bend(self, x: Float[Array, "B Y X F"]) -> Float[Array, "B Y X F"]:
        """What follows the sum."""
        return nn.relu(x) if self.bends else x

    @nn.nowrap
    def conv(self, features: int, size: int, stride: int, name: str, **fields: Any) -> ConvNorm:
        return super().conv(features, size, stride, name, **{**fields, "scale_init": ones_init})


class Ddrnet(PlainHost):
    """Stem, two stages, steps of two branches, a bottleneck each, a wide map, a head.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dim: channels of the stem; the fine branch has twice as many, the coarse one from four times.
      depths: blocks of both stages before the branches part.
      strides: of the coarse branch at the start of each step, 1 or 2, which doubles its channels.
      coarse_depths, fine_depths: blocks of either branch in each step.
      last_dim: channels of the map that is pooled.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    """

    dim: int = 64
    depths: tuple[int, ...] = (2, 2)
    strides: tuple[int, ...] = (2, 2)
    coarse_depths: tuple[int, ...] = (2, 2)
    fine_depths: tuple[int, ...] = (2, 2)
    last_dim: int = 2048
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        if not len(self.strides) == len(self.coarse_depths) == len(self.fine_depths):
            raise UserError(
                f"strides={self.strides}, coarse_depths={self.coarse_depths} and "
                f"fine_depths={self.fine_depths} must name as many steps each"
            )
        check_size(images, 1)
        x, dim = images, self.dim
        for index in range(2):
            x = self.conv(dim, f"stem{index}", stride=2, use_bias=True, activation="relu")(x, train)
        x = tap(self, "stem", x)
        maps = [x]
        x = self.blocks(x, dim, self.depths[0], "stage0", train)
        x = nn.relu(self.blocks(nn.relu(x), 2 * dim, self.depths[1], "stage1", train, stride=2))
        fine, width, times = x, 2 * dim, 0
        for step, stride in enumerate(self.strides):
            width, times = (2 * width, times + 1) if stride == 2 else (width, times)
            depth, name = self.coarse_depths[step], f"coarse{step}"
            before = self.blocks(x, width, depth, name, train, stride=stride)
            fine = self.blocks(fine, 2 * dim, self.fine_depths[step], f"fine{step}", train)
            x = before + self.shrunk(nn.relu(fine), times, 4 * dim, f"shrink{step}", train)
            up = self.conv(2 * dim, f"enlarge{step}", 1)(nn.relu(before), train)
            fine = fine + jax.image.resize(up, fine.shape, "bilinear", precision="highest")
            x, fine = constrain_last(nn.relu(x)), constrain_last(nn.relu(fine))
            maps.append(tap(self, name, x))
        maps.insert(1, fine)
        top = {"bottleneck": True, "bends": True}
        x = self.blocks(x, width, 1, "coarse_top", train, **top)
        fine = nn.relu(self.blocks(fine, 2 * dim, 1, "fine_top", train, **top))
        x = x + self.shrunk(fine, times, 8 * dim, "shrink_top", train)
        x = self.conv(self.last_dim, "last", 1, activation="relu")(nn.relu(x), train)
        if as_maps:
            return (*maps, x)
        return self.classify(jnp.mean(x, axis=(1, 2)), train, kernel_init=fan_in_uniform())

    @property
    def layer(self) -> dict[str, Any]:
        """Fields of every convolution."""
        names = ("norm_epsilon", "norm_momentum", "frozen_statistics")
        return {**{name: getattr(self, name) for name in names}, **self.dtypes}

    @nn.nowrap
    def conv(self, features: int, name: str, size: int = 3, **fields: Any) -> ConvNorm:
        """A convolution with its norm."""
        return ConvNorm(features, size, name=name, **{"activation": None, **fields}, **self.layer)

    @nn.nowrap
    def blocks(
        self,
        x: Float[Array, "B Y X C"],
        dim: int,
        depth: int,
        name: str,
        train: bool,
        **first: Any,
    ) -> Float[Array, "B Yo Xo F"]:
        """Blocks of so many channels, of which the last of several does not bend its sum."""
        fields: list[dict[str, Any]] = [
            {"dim": dim, "bottleneck": False, "bends": index < depth - 1 or not index, **self.layer}
            for index in range(depth)
        ]
        fields[0] |= first
        out = DualBlock(**fields[0], parent=None).out_dim
        fields[0]["projects"] = first.get("stride", 1) > 1 or x.shape[-1] != out
        x, _, _ = apply_blocks(
            fields,
            x,
            (0.0,) * depth,
            train=train,
            remat=self.remat,
            block=DualBlock,
            prefix=name,
        )
        return x

    @nn.nowrap
    def shrunk(
        self, x: Float[Array, "B Y X C"], times: int, dim: int, name: str, train: bool
    ) -> Float[Array, "B Yo Xo F"]:
        """A fine map as the coarse one is: a strided convolution for each halving."""
        for index in range(times):
            bend = "relu" if index < times - 1 else None
            conv = self.conv(dim * 2**index, f"{name}_{index}", stride=2, activation=bend)
            x = conv(x, train)
        return x

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the stem, the fine map, the coarse ones and the pooled."""
        found = [Feature("stem", 4, self.dim), Feature("fine", 8, 2 * self.dim)]
        stride, width = 8, 2 * self.dim
        for step, factor in enumerate(self.strides):
            stride, width = stride * factor, width * factor
            found.append(Feature(f"coarse{step}", stride, width))
        return (*found, Feature("last", stride, self.last_dim))


def _variant(params: int, dim: int, last_dim: int, **fields: Sequence[int]) -> Variant:
    config = {"dim": dim, "last_dim": last_dim, **fields}
    return Variant(params, (224, 224, 3), "ddrnet", config)


_39 = {
    "depths": (3, 4),
    "strides": (2, 1, 2),
    "coarse_depths": (3, 3, 3),
    "fine_depths": (3, 3, 3),
}

VARIANTS = {
    "ddrnet23_slim": _variant(7_574_664, 32, 1024),
    "ddrnet23": _variant(28_216_616, 64, 2048),
    "ddrnet39": _variant(40_130_344, 64, 2048, **_39),
}

register_family("ddrnet", Ddrnet, VARIANTS)
