"""Dual Path Networks (Chen et al., 2017): a residual and a dense path through grouped bottlenecks.

A map's channels are two paths. A block reads both, by 1x1, grouped 3x3 and 1x1 convolutions, each
behind its batch norm and relu; of what comes out, `dim` channels are added to the first path and
`growth` are put behind the second. Without growth that is a ResNeXt block, without the first path
one of DenseNet. Names and numbers are timm's.

    >>> import scanmax
    >>> model = scanmax.create_model("dpn68", num_classes=10)
    >>> [feature.channels for feature in model.feature_info()]
    [10, 144, 320, 704, 832]

Reference: dpn
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import (
    BatchNorm,
    Conv,
    DropPath,
    activation,
    constrain_last,
    drop_path_rates,
    fan_in_uniform,
)
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import PlainHost


class NormConv(nn.Module):
    """conv(relu(norm(x))), or the convolutions of it where `features` are several.

    Attributes:
      features: channels, or those of several convolutions of one input, concatenated.
      norm: fields of the `BatchNorm`.
    """

    features: int | tuple[int, ...]
    norm: Any
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool) -> Float[Array, "B Yo Xo F"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.relu(BatchNorm(name="norm", **self.norm, **dtypes)(x, train))
        fields = {
            "stride": self.stride,
            "padding": self.kernel_size // 2,
            "groups": self.groups,
            "use_bias": False,
            "kernel_init": fan_in_uniform(),
            **dtypes,
        }
        if isinstance(self.features, int):
            return Conv(self.features, self.kernel_size, name="conv", **fields)(x)
        outputs = [
            Conv(features, self.kernel_size, name=f"conv{index}", **fields)(x)
            for index, features in enumerate(self.features)
        ]
        return jnp.concatenate(outputs, -1)


class DualPathBlock(nn.Module):
    """(r + branch[:dim], d, branch[dim:]) of the two paths r and d, side by side.

    Attributes:
      dim: channels of the residual path.
      growth: channels that the dense path gains.
      hidden: channels within the branch.
      norm: fields of every `BatchNorm`.
      projects: the paths are a projection of the input to dim + 2 growth channels.
      split: what goes to each path is a convolution of its own, behind one norm.
    """

    dim: int
    growth: int
    hidden: int
    norm: Any
    groups: int = 32
    stride: int = 1
    projects: bool = False
    split: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Y X C"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        state: None = None,
        grid: None = None,
        train: bool = False,
    ) -> Float[Array, "B Yo Xo F"]:
        fields = {"norm": self.norm, "dtype": self.dtype, "param_dtype": self.param_dtype}
        paths = x
        if self.projects:
            width = self.dim + 2 * self.growth
            paths = NormConv(width, stride=self.stride, name="shortcut", **fields)(x, train)
        y = NormConv(self.hidden, name="conv1", **fields)(x, train)
        grouped = {"kernel_size": 3, "stride": self.stride, "groups": self.groups, **fields}
        y = NormConv(self.hidden, name="conv2", **grouped)(y, train)
        widths = (self.dim, self.growth)
        y = NormConv(widths if self.split else sum(widths), name="conv3", **fields)(y, train)
        y = DropPath()(y, drop_path_rate, train)
        added = paths[..., : self.dim] + y[..., : self.dim]
        y = jnp.concatenate([added, paths[..., self.dim :], y[..., self.dim :]], -1)
        return tap(self, "output", constrain_last(y))


class Dpn(PlainHost):
    """Stem, stages of dual path blocks, a norm, a pooled map, a head.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dims: channels of the residual path in each stage.
      depths: blocks of each stage.
      growths: channels that the dense path gains in each block of a stage.
      hidden_dim: channels within the blocks of the first stage; they double from stage to stage.
      groups: of the 3x3 convolutions.
      stem_dim: channels of the stem.
      stem_size: side of its kernel.
      activation: of the stem and behind the last norm.
      split: each path gets a convolution of its own at a branch's end.
      drop_path_rate: of the last block; earlier ones have less.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
    """

    dims: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 20, 3)
    growths: tuple[int, ...] = (16, 32, 24, 128)
    hidden_dim: int = 96
    groups: int = 32
    stem_dim: int = 64
    stem_size: int = 7
    activation: str = "relu"
    split: bool = False
    drop_path_rate: float = 0.0
    norm_epsilon: float = 1e-3
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        if not len(self.dims) == len(self.depths) == len(self.growths):
            raise UserError(
                f"dims={self.dims}, depths={self.depths} and growths={self.growths} must name as "
                "many stages each"
            )
        statistics = {
            "norm_epsilon": self.norm_epsilon,
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
        }
        x = ConvNorm(
            self.stem_dim,
            self.stem_size,
            stride=2,
            activation=self.activation,
            kernel_init=fan_in_uniform(),
            name="stem0",
            **statistics,
            **self.dtypes,
        )(images, train)
        x = tap(self, "stem", constrain_last(x))
        maps = [x]
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        norm = {name.removeprefix("norm_"): value for name, value in statistics.items()}
        rates = drop_path_rates(self.drop_path_rate, sum(self.depths))
        for stage, depth in enumerate(self.depths):
            first = sum(self.depths[:stage])
            x, _, _ = apply_blocks(
                [self.block_fields(stage, index, norm) for index in range(depth)],
                x,
                rates[first : first + depth],
                train=train,
                remat=self.remat,
                block=DualPathBlock,
                prefix=f"stage{stage}_block",
            )
            maps.append(x)
        if as_maps:
            return tuple(maps)
        x = activation(self.activation)(BatchNorm(name="norm", **norm, **self.dtypes)(x, train))
        return self.classify(jnp.mean(x, axis=(1, 2)), train, kernel_init=fan_in_uniform())

    @nn.nowrap
    def block_fields(self, stage: int, index: int, norm: dict[str, Any]) -> dict[str, Any]:
        """The fields of block `index` of a stage; the first projects, and halves but in stage 0."""
        return {
            "dim": self.dims[stage],
            "growth": self.growths[stage],
            "hidden": self.hidden_dim * 2**stage,
            "norm": norm,
            "groups": self.groups,
            "stride": 2 if stage and not index else 1,
            "projects": not index,
            "split": self.split,
            **self.dtypes,
        }

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        stages = tuple(
            Feature(f"stage{stage}", 4 * 2**stage, dim + (depth + 2) * growth)
            for stage, (dim, depth, growth) in enumerate(zip(self.dims, self.depths, self.growths))
        )
        return Feature("stem", 2, self.stem_dim), *stages


_SMALL = {
    "dims": (64, 128, 256, 512),
    "growths": (16, 32, 32, 64),
    "hidden_dim": 128,
    "stem_dim": 10,
    "stem_size": 3,
}


def _variant(params: int, depths: tuple[int, ...], *parts: dict[str, Any], **fields) -> Variant:
    config = {"depths": depths}
    for part in (*parts, fields):
        config |= part
    return Variant(params, (224, 224, 3), "dpn", config)


def _large(growths: tuple[int, ...], hidden: int, groups: int, stem: int) -> dict[str, Any]:
    return {"growths": growths, "hidden_dim": hidden, "groups": groups, "stem_dim": stem}


VARIANTS = {
    "dpn48b": _variant(9_126_226, (3, 4, 6, 3), _SMALL, split=True, activation="silu"),
    "dpn68": _variant(12_611_602, (3, 4, 12, 3), _SMALL),
    "dpn68b": _variant(12_611_602, (3, 4, 12, 3), _SMALL, split=True),
    "dpn92": _variant(37_668_392, (3, 4, 20, 3), _large((16, 32, 24, 128), 96, 32, 64)),
    "dpn98": _variant(61_570_728, (3, 6, 20, 3), _large((16, 32, 32, 128), 160, 40, 96)),
    "dpn107": _variant(86_917_800, (4, 8, 20, 3), _large((20, 64, 64, 128), 200, 50, 128)),
    "dpn131": _variant(79_254_504, (4, 8, 28, 3), _large((16, 32, 32, 128), 160, 40, 128)),
}

register_family("dpn", Dpn, VARIANTS)
