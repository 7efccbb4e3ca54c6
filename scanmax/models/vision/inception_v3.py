"""Inception v3 (Szegedy et al., 2016): blocks of parallel convolutions, large kernels factorised.

A stem, blocks on maps of stride 8, 16 and 32 whose branches are concatenated, a pooled map, a head.
A 5x5 kernel is two of 3x3, a 7x7 one a row and a column; a map is halved by strided convolutions
beside a max pool. Convolutions of the stem and those that halve have no padding, so that maps are
a little smaller than the image over their stride. Names and numbers are timm's.

    >>> import scanmax
    >>> model = scanmax.create_model("inception_v3", num_classes=10)
    >>> [feature.channels for feature in model.feature_info()]
    [64, 192, 288, 768, 2048]

Reference: inception-v3
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.blocks import rematerialised
from scanmax.models.layers import Dense, constrain_last
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import PlainHost, check_size

_INIT = nn.initializers.normal(0.1)
# Convolutions of the stem, before its first max pool and behind it: name, channels, kernel, stride,
# padding.
_STEM = (("1a", 32, 3, 2, 0), ("2a", 32, 3, 1, 0), ("2b", 64, 3, 1, 1))
_BEHIND_POOL = (("3b", 80, 1, 1, 0), ("4a", 192, 3, 1, 0))


class Step(NamedTuple):
    """A convolution of a branch: name, channels, kernel; one that halves has no padding."""

    name: str
    features: int
    kernel_size: int | tuple[int, int] = 1
    stride: int = 1


# Steps one after the other; several in one place lie side by side behind those before them.
Branch = tuple[Step | tuple[Step, ...], ...]
_ROW, _COLUMN = (1, 7), (7, 1)


def _chain(name: str, *steps: tuple) -> Branch:
    """A branch of convolutions `name`_1, `name`_2, ..."""
    return tuple(Step(f"{name}_{index + 1}", *step) for index, step in enumerate(steps))


def _sides(name: str, features: int) -> tuple[Step, Step]:
    """A row and a column side by side."""
    return Step(f"{name}a", features, (1, 3)), Step(f"{name}b", features, (3, 1))


def block_a(pooled: int) -> tuple[Branch, ...]:
    """Branches on the map of stride 8: 1x1, 5x5, two 3x3, and `pooled` channels of the average."""
    return (
        (Step("branch1x1", 64),),
        _chain("branch5x5", (48,), (64, 5)),
        _chain("branch3x3dbl", (64,), (96, 3), (96, 3)),
        (Step("branch_pool", pooled),),
    )


def block_c(width: int) -> tuple[Branch, ...]:
    """Branches on the map of stride 16: one and two factorised 7x7 of `width` channels within."""
    return (
        (Step("branch1x1", 192),),
        _chain("branch7x7", (width,), (width, _ROW), (192, _COLUMN)),
        _chain(
            "branch7x7dbl", (width,), (width, _COLUMN), (width, _ROW), (width, _COLUMN), (192, _ROW)
        ),
        (Step("branch_pool", 192),),
    )


BLOCK_B: tuple[Branch, ...] = (
    (Step("branch3x3", 384, 3, 2),),
    _chain("branch3x3dbl", (64,), (96, 3), (96, 3, 2)),
)
BLOCK_D: tuple[Branch, ...] = (
    _chain("branch3x3", (192,), (320, 3, 2)),
    _chain("branch7x7x3", (192,), (192, _ROW), (192, _COLUMN), (192, 3, 2)),
)
BLOCK_E: tuple[Branch, ...] = (
    (Step("branch1x1", 320),),
    (Step("branch3x3_1", 384), _sides("branch3x3_2", 384)),
    (Step("branch3x3dbl_1", 448), Step("branch3x3dbl_2", 384, 3), _sides("branch3x3dbl_3", 384)),
    (Step("branch_pool", 192),),
)


class InceptionBlock(nn.Module):
    """Branches side by side, concatenated.

    A branch whose first step is called "branch_pool" begins with an average over 3x3 places. Blocks
    without one halve the map, and the maximum over 3x3 places comes last.

    Attributes:
      branches: the branches.
      conv: fields of every `ConvNorm`.
      width_ratio: of all channels.
    """

    branches: tuple[Branch, ...]
    conv: Any
    width_ratio: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], train: bool = False
    ) -> Float[Array, "B Yo Xo F"]:
        outputs, halves = [], True
        for branch in self.branches:
            y = x
            for step in branch:
                if isinstance(step, Step):
                    if step.name == "branch_pool":
                        y, halves = average3x3(y), False
                    y = self.create_conv(step)(y, train)
                else:
                    y = jnp.concatenate([self.create_conv(side)(y, train) for side in step], -1)
            outputs.append(y)
        if halves:
            outputs.append(nn.max_pool(x, window_shape=(3, 3), strides=(2, 2)))
        return tap(self, "output", constrain_last(jnp.concatenate(outputs, -1)))

    @nn.nowrap
    def create_conv(self, step: Step) -> ConvNorm:
        return ConvNorm(
            scaled(step.features, self.width_ratio),
            step.kernel_size,
            stride=step.stride,
            padding=None if step.stride == 1 else "VALID",
            name=step.name,
            **self.conv,
        )


def scaled(features: int, ratio: float) -> int:
    """So many channels times the ratio, at least one."""
    return max(1, round(features * ratio))


def average3x3(x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
    """Averages of 3x3 places; those outside the map are zeros that count."""
    for axis in (1, 2):
        sides = [(0, 0)] * 4
        sides[axis] = (1, 1)
        padded = jnp.pad(x, sides)
        slices = [slice(None)] * 4
        shifted = []
        for start in range(3):
            slices[axis] = slice(start, start + x.shape[axis])
            shifted.append(padded[tuple(slices)])
        x = sum(shifted) / 3
    return x


class AuxiliaryHead(nn.Module):
    """Logits from a map in the middle of the network.

    Attributes:
      conv: fields of every `ConvNorm`.
    """

    num_classes: int
    conv: Any
    width_ratio: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool) -> Float[Array, "B classes"]:
        x = nn.avg_pool(x, window_shape=(5, 5), strides=(3, 3))
        x = ConvNorm(scaled(128, self.width_ratio), 1, name="conv0", **self.conv)(x, train)
        fields = {"padding": "VALID", **self.conv}
        x = ConvNorm(scaled(768, self.width_ratio), 5, name="conv1", **fields)(x, train)
        return Dense(
            self.num_classes,
            ("embed", "classes"),
            kernel_init=nn.initializers.normal(0.001),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="fc",
        )(jnp.mean(x, axis=(1, 2)))


class InceptionV3(PlainHost):
    """Stem, blocks of parallel convolutions at three strides, a pooled map, a head.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      pooled_dims: one block at stride 8 for each, with so many channels behind its average.
      inner_dims: one block at stride 16 for each, with so many channels within its 7x7 branches.
      last_depth: blocks at stride 32.
      width_ratio: of all channels.
      aux_logits: a second head on the last map of stride 16: training returns (logits, its logits).
        Images have at least 299 pixels a side then, else 75.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
    """

    pooled_dims: tuple[int, ...] = (32, 64, 64)
    inner_dims: tuple[int, ...] = (128, 160, 160, 192)
    last_depth: int = 2
    width_ratio: float = 1.0
    aux_logits: bool = False
    norm_epsilon: float = 1e-3
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        check_size(images, 299 if self.aux_logits else 75)
        x = self.stem(
            images, (("1a", 32, 3, 2, 0), ("2a", 32, 3, 1, 0), ("2b", 64, 3, 1, 1)), train
        )
        x = tap(self, "stem", constrain_last(x))
        maps = [x]
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        x = self.stem(x, _BEHIND_POOL, train)
        maps.append(x)
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        x = self.blocks("5", map(block_a, self.pooled_dims), x, train, first="b")
        maps.append(x)
        x = self.blocks("6", (BLOCK_B, *map(block_c, self.inner_dims)), x, train)
        maps.append(x)
        auxiliary = None
        if self.aux_logits and self.num_classes and not as_maps:
            shared = {"width_ratio": self.width_ratio, **self.dtypes}
            auxiliary = AuxiliaryHead(self.num_classes, self.conv, name="aux", **shared)(x, train)
        x = self.blocks("7", (BLOCK_D, *(BLOCK_E,) * self.last_depth), x, train)
        if as_maps:
            return (*maps, x)
        logits = self.classify(jnp.mean(x, axis=(1, 2)), train, kernel_init=_INIT)
        return logits if auxiliary is None or not train else (logits, auxiliary)

    @property
    def conv(self) -> dict[str, Any]:
        """Fields of every convolution."""
        return {
            "norm_epsilon": self.norm_epsilon,
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
            "kernel_init": _INIT,
            **self.dtypes,
        }

    @nn.nowrap
    def stem(self, x: Float[Array, "B Yi Xi C"], convs: Sequence[tuple], train: bool):
        """Convolutions one after the other."""
        kind = rematerialised(ConvNorm, self.remat)
        for name, dim, size, stride, padding in convs:
            given = {"stride": stride, "padding": padding, **self.conv}
            dim = scaled(dim, self.width_ratio)
            x = kind(dim, size, name=f"conv{name}", **given)(x, train)
        return x

    @nn.nowrap
    def blocks(self, stage: str, kinds, x, train: bool, first: str = "a"):
        """Blocks one after the other, named by the stage and a letter."""
        kind = rematerialised(InceptionBlock, self.remat)
        for index, branches in enumerate(kinds):
            name = f"mixed{stage}{chr(ord(first) + index)}"
            x = kind(branches, self.conv, self.width_ratio, name=name)(x, train)
        return x

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        maps = (
            ("conv2b", 2, (64,)),
            ("conv4a", 4, (192,)),
            ("mixed5", 8, (64, 64, 96, self.pooled_dims[-1])),
            ("mixed6", 16, (192,) * 4),
            ("mixed7", 32, (320, 384, 384, 384, 384, 192)),
        )
        return tuple(
            Feature(name, stride, sum(scaled(dim, self.width_ratio) for dim in dims))
            for name, stride, dims in maps
        )


VARIANTS = {"inception_v3": Variant(23_834_568, (299, 299, 3), "inception-v3", {})}

register_family("inception_v3", InceptionV3, VARIANTS)
