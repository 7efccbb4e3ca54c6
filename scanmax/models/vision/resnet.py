"""ResNet and its kin: ResNeXt, wide and deep-stemmed ones, SE-, ECA-, SK- and IBN-ResNets, SENet.

A stem, four stages of residual blocks, a pooled map, a head. A block is two 3x3 convolutions or a
bottleneck 1x1, 3x3, 1x1, each with its batch norm, added to its input. Names, numbers and initial
values are timm's.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import (
    DropPath,
    constrain_last,
    drop_path_rates,
    fan_in_uniform,
    ones_init,
    zeros_init,
)
from scanmax.models.parts.channel_attention import create_channel_attention
from scanmax.models.parts.conv_norm import ConvNorm, halved
from scanmax.models.parts.map_norms import InstanceBatchNorm
from scanmax.models.parts.selective_kernel import SelectiveKernel
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost


class ResNetBlock(nn.Module):
    """relu(shortcut(x) + gate(branch(x))).

    Attributes:
      dim: channels of the stage before their expansion.
      bottleneck: 1x1, 3x3, 1x1 with four times `dim` at the end, instead of two 3x3.
      projects: the shortcut is a convolution with its norm, not the identity.
      selective_kernel: fields of a `SelectiveKernel` in the place of the convolution that strides.
      instance_norm: "a": half of the first norm's channels are normed by the image itself; "b": so
        is the sum, before its relu.
    """

    dim: int
    bottleneck: bool = True
    stride: int = 1
    groups: int = 1
    base_width: int = 64
    reduce_first: int = 1
    projects: bool = False
    average_down: bool = False
    down_kernel_size: int = 1
    channel_attention: str | None = None
    selective_kernel: Mapping[str, Any] | None = None
    instance_norm: str | None = None
    norm_layer: str = "batch"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
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
        out = self.out_dim
        # Nothing is added at first: a deep network starts as a shallow one. timm's of selective
        # kernels do not.
        start = zeros_init if self.selective_kernel is None else ones_init
        last = {"activation": None, "scale_init": start}
        own = {"norm_layer": "instance_batch"} if self.instance_norm == "a" else {}
        if self.bottleneck:
            width = self.dim * self.base_width // 64 * self.groups
            convs = (
                self.conv(width // self.reduce_first, 1, 1, "conv1", **own),
                self.strided(width, "conv2", groups=self.groups),
                self.conv(out, 1, 1, "conv3", **last),
            )
        else:
            convs = (
                self.strided(self.dim // self.reduce_first, "conv1", groups=self.groups, **own),
                self.conv(out, self.second_size, 1, "conv2", **last),
            )
        branch = x
        for conv in convs:
            branch = conv(branch, train)
        branch = self.gate(branch, train)
        x = self.shortcut(x, train) + DropPath()(branch, drop_path_rate, train)
        if self.instance_norm == "b":
            dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            x = InstanceBatchNorm(1.0, epsilon=self.norm_epsilon, name="norm", **dtypes)(x)
        return tap(self, "output", self.bend(x))

    @property
    def out_dim(self) -> int:
        """Channels that the block gives."""
        return expanded(self.dim, self.bottleneck)

    @property
    def second_size(self) -> int:
        """Side of the second kernel of a block without bottleneck."""
        return 3

    @nn.nowrap
    def bend(self, x: Float[Array, "B Y X F"]) -> Float[Array, "B Y X F"]:
        """What follows the sum."""
        return nn.relu(x)

    @property
    def layer(self) -> dict[str, Any]:
        """Fields of every convolution."""
        return {
            "norm_layer": self.norm_layer,
            "norm_epsilon": self.norm_epsilon,
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }

    @nn.nowrap
    def conv(self, features: int, size: int, stride: int, name: str, **fields: Any) -> ConvNorm:
        fields = {"scale_init": ones_init, **self.layer, **fields}
        return ConvNorm(features, size, stride=stride, name=name, **fields)

    @nn.nowrap
    def strided(self, features: int, name: str, **fields: Any) -> nn.Module:
        """The 3x3 convolution with the stride, or a choice of two."""
        if self.selective_kernel is None:
            return self.conv(features, 3, self.stride, name, **fields)
        if self.norm_layer != "batch" or "norm_layer" in fields:
            raise UserError("selective_kernel= has batch norms: give it no norm_layer= or ibn=")
        own = {name: value for name, value in self.layer.items() if name != "norm_layer"}
        fields |= {"stride": self.stride, "name": name, **self.selective_kernel, **own}
        return SelectiveKernel(features, **fields)

    @nn.nowrap
    def shortcut(self, x: Float[Array, "B Y X C"], train: bool) -> Float[Array, "B Yo Xo F"]:
        if not self.projects:
            return x
        size, stride = self.down_kernel_size, self.stride
        if self.average_down:
            x = halved(x) if stride > 1 else x
            size, stride = 1, 1
        out = self.out_dim
        size = size if stride > 1 else 1
        return self.conv(out, size, stride, "shortcut", activation=None)(x, train)

    @nn.nowrap
    def gate(self, x: Float[Array, "B Y X F"], train: bool) -> Float[Array, "B Y X F"]:
        if self.channel_attention is None:
            return x
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return create_gate(self.channel_attention, x.shape[-1], **dtypes)(x, train)


def create_gate(kind: str, channels: int, **fields: Any) -> nn.Module:
    """A gate of so many channels, of CHANNEL_ATTENTION, whose hidden layer is as wide as timm's."""
    if kind == "se":
        # A sixteenth, in multiples of eight.
        hidden = max(8, (channels // 16 + 4) // 8 * 8)
        fields["reduction"] = max(1, channels // hidden)
    return create_channel_attention(kind, name="channel_attention", **fields)


def expanded(dim: int, bottleneck: bool) -> int:
    """Channels that a block of `dim` gives."""
    return 4 * dim if bottleneck else dim


class ResNet(MapHost):
    """Stem, stages of residual blocks, a pooled map, a head.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dims: channels of each stage before their expansion.
      depths: blocks of each stage.
      bottleneck: blocks of 1x1, 3x3, 1x1 whose output is four times as wide.
      stem_dims: channels of the stem's convolutions: one of 7x7, or several of 3x3.
      stem_size: side of the kernels of the stem, in the place of these.
      stem_stride: of the first of them; 1, a stem_size of 3 and no pool are usual where images have
        32 pixels a side.
      stem_pool: a max pool halves the map behind the stem.
      groups: of the 3x3 convolutions of a bottleneck (ResNeXt's cardinality), and of the first of a
        block without one.
      base_width: channels of each group for 64 of the stage.
      reduce_first: what divides the width of a block's first convolution.
      average_down: shortcuts that shrink the map average it, then project it.
      down_kernel_size: of the convolution of shortcuts that shrink the map.
      channel_attention: a gate of each branch, "se", "eca" or "cbam"; None leaves it out.
      selective_kernel: fields of a `SelectiveKernel`, such as {"split_input": False}, that takes
        the place of the convolution with the stride; None keeps it.
      ibn: of each stage, "a" (half of the channels of each branch's first norm are normed by the
        image itself), "b" (so is the sum that ends the stage, and in the first stage the stem) or
        None; () is None for all.
      norm_layer: a name of `parts.map_norms.MAP_NORMS`, such as "evonorm_s0", which bends as well.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block per stage after the first, stage{i}_first; parameters are
        stacked (blocks.stack_blocks).
    """

    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    stem_dims: tuple[int, ...] = (64,)
    stem_size: int | None = None
    stem_stride: int = 2
    stem_pool: bool = True
    groups: int = 1
    base_width: int = 64
    reduce_first: int = 1
    average_down: bool = False
    down_kernel_size: int = 1
    channel_attention: str | None = None
    selective_kernel: Mapping[str, Any] | None = None
    ibn: tuple[str | None, ...] = ()
    norm_layer: str = "batch"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        if len(self.depths) != len(self.dims):
            raise UserError(
                f"dims={self.dims} and depths={self.depths} must name as many stages each"
            )
        if len(self.ibn) not in (0, len(self.dims)) or {*self.ibn} - {"a", "b", None}:
            raise UserError(f"ibn={self.ibn} must say 'a', 'b' or None of each stage")
        x = constrain_last(self.stem(images, train))
        x = tap(self, "stem", x)
        maps = [x]
        if self.stem_pool:
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        rates = drop_path_rates(self.drop_path_rate, sum(self.depths))
        for stage, depth in enumerate(self.depths):
            first, rest = self.block_fields(stage, x.shape[-1])
            last = {**rest, "instance_norm": self.ibn_of(stage)}
            ends = depth > 1 and last != rest
            # Blocks of another kind have names of their own.
            kinds = {"first": [first], "block": [rest] * (depth - 1 - ends), "last": [last] * ends}
            index = sum(self.depths[:stage])
            for kind, blocks in kinds.items():
                x, _, _ = apply_blocks(
                    blocks,
                    x,
                    rates[index : index + len(blocks)],
                    train=train,
                    remat=self.remat,
                    scan_layers=self.scan_layers and len(blocks) > 0 and kind == "block",
                    block=self.block,
                    prefix=f"stage{stage}_{kind}",
                )
                index += len(blocks)
            maps.append(x)
        if as_maps:
            return tuple(maps)
        return self.classify(jnp.mean(x, axis=(1, 2)), train, kernel_init=fan_in_uniform())

    @property
    def block(self) -> type[ResNetBlock]:
        """What the stages are made of."""
        return ResNetBlock

    @property
    def norm(self) -> dict[str, Any]:
        """Fields of every batch norm."""
        return {
            "norm_layer": self.norm_layer,
            "norm_epsilon": self.norm_epsilon,
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
        }

    @nn.nowrap
    def ibn_of(self, stage: int) -> str | None:
        """What `ibn` says of a stage."""
        return self.ibn[stage] if self.ibn else None

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X C"]:
        """One 7x7 or several 3x3 convolutions, the first of which halves the map."""
        x, norm = images, self.norm
        if self.ibn_of(0) == "b":
            norm = {**norm, "norm_layer": "instance"}
        for index, dim in enumerate(self.stem_dims):
            size = self.stem_size or (7 if len(self.stem_dims) == 1 else 3)
            stride = 1 if index else self.stem_stride
            x = self.stem_conv(dim, size, stride=stride, name=f"stem{index}", **norm)(x, train)
        return x

    @nn.nowrap
    def stem_conv(self, features: int, size: int, **fields: Any) -> nn.Module:
        """A convolution of the stem with its norm."""
        return ConvNorm(features, size, **fields, **self.dtypes)

    @nn.nowrap
    def block_fields(self, stage: int, channels: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fields of the first block of a stage, that gets so many channels, and of the others."""
        rest = {
            "dim": self.dims[stage],
            "bottleneck": self.bottleneck,
            "groups": self.groups,
            "base_width": self.base_width,
            "reduce_first": self.reduce_first,
            "channel_attention": self.channel_attention,
            "selective_kernel": self.selective_kernel,
            "instance_norm": "a" if self.ibn_of(stage) == "a" else None,
            **self.norm,
            **self.dtypes,
        }
        stride = 2 if stage else 1
        projects = stride > 1 or channels != expanded(self.dims[stage], self.bottleneck)
        first = {
            "stride": stride,
            "projects": projects,
            "average_down": self.average_down,
            "down_kernel_size": self.down_kernel_size,
        }
        return {**rest, **first}, rest

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        stride = self.stem_stride
        first = stride * (2 if self.stem_pool else 1)
        stages = tuple(
            Feature(f"stage{stage}", first * 2**stage, expanded(dim, self.bottleneck))
            for stage, dim in enumerate(self.dims)
        )
        return Feature("stem", stride, self.stem_dims[-1]), *stages


_BASIC = {"bottleneck": False}
_C = {"stem_dims": (32, 32, 64)}
_S = {"stem_dims": (64, 64, 128)}
_D = {"stem_dims": (32, 32, 64), "average_down": True}
_T = {"stem_dims": (24, 32, 64), "average_down": True}
_SK = {"selective_kernel": {"split_input": True}}
_SK_LIGHT = {"selective_kernel": {"reduction": 1 / 8, "divisor": 16, "split_input": True}}
_SK_WHOLE = {"selective_kernel": {"reduction": 1 / 16, "divisor": 32, "split_input": False}}
_IBN_A, _IBN_B = {"ibn": ("a", "a", "a", None)}, {"ibn": ("b", "b", None, None)}
_SE, _ECA = {"channel_attention": "se"}, {"channel_attention": "eca"}
_DEPTHS = {
    10: (1, 1, 1, 1),
    14: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
}
_PAPERS = {"se": "se-net", "eca": "pkcam"}


def _variant(params: int, layers: int, *parts: dict[str, Any], size: int = 224) -> Variant:
    config = {"depths": _DEPTHS[layers]}
    for fields in parts:
        config |= fields
    paper = "ibn-net" if "ibn" in config else _PAPERS.get(config.get("channel_attention"), "")
    return Variant(params, (size, size, 3), paper, config)


def _groups(groups: int, width: int) -> dict[str, Any]:
    return {"groups": groups, "base_width": width}


VARIANTS = {
    "resnet10t": _variant(5_435_488, 10, _BASIC, _T, size=176),
    "resnet14t": _variant(10_081_632, 14, _T, size=176),
    "resnet18": _variant(11_689_512, 18, _BASIC),
    "resnet18d": _variant(11_708_744, 18, _BASIC, _D),
    "resnet26": _variant(15_995_176, 26),
    "resnet26d": _variant(16_014_408, 26, _D),
    "resnet26t": _variant(16_011_872, 26, _T, size=256),
    "resnet34": _variant(21_797_672, 34, _BASIC),
    "resnet34d": _variant(21_816_904, 34, _BASIC, _D),
    "resnet50": _variant(25_557_032, 50),
    "resnet50c": _variant(25_576_264, 50, _C),
    "resnet50d": _variant(25_576_264, 50, _D),
    "resnet50s": _variant(25_680_808, 50, _S),
    "resnet50t": _variant(25_573_728, 50, _T),
    "resnet101": _variant(44_549_160, 101),
    "resnet101c": _variant(44_568_392, 101, _C),
    "resnet101d": _variant(44_568_392, 101, _D, size=256),
    "resnet101s": _variant(44_672_936, 101, _S),
    "resnet152": _variant(60_192_808, 152),
    "resnet152c": _variant(60_212_040, 152, _C),
    "resnet152d": _variant(60_212_040, 152, _D, size=256),
    "resnet152s": _variant(60_316_584, 152, _S),
    "resnet200": _variant(64_673_832, 200),
    "resnet200d": _variant(64_693_064, 200, _D, size=256),
    "wide_resnet50_2": _variant(68_883_240, 50, _groups(1, 128)),
    "wide_resnet101_2": _variant(126_886_696, 101, _groups(1, 128)),
    "resnext50_32x4d": _variant(25_028_904, 50, _groups(32, 4)),
    "resnext50d_32x4d": _variant(25_048_136, 50, _groups(32, 4), _D),
    "resnext101_32x4d": _variant(44_177_704, 101, _groups(32, 4)),
    "resnext101_32x8d": _variant(88_791_336, 101, _groups(32, 8)),
    "resnext101_32x16d": _variant(194_026_792, 101, _groups(32, 16)),
    "resnext101_32x32d": _variant(468_530_472, 101, _groups(32, 32)),
    "resnext101_64x4d": _variant(83_455_272, 101, _groups(64, 4)),
    "seresnet18": _variant(11_779_624, 18, _BASIC, _SE),
    "seresnet34": _variant(21_960_416, 34, _BASIC, _SE),
    "seresnet50": _variant(28_088_024, 50, _SE),
    "seresnet50t": _variant(28_104_720, 50, _T, _SE),
    "seresnet101": _variant(49_326_872, 101, _SE),
    "seresnet152": _variant(66_821_848, 152, _SE),
    "seresnet152d": _variant(66_841_080, 152, _D, _SE, size=256),
    "seresnet200d": _variant(71_855_096, 200, _D, _SE, size=256),
    "seresnet269d": _variant(113_672_760, 269, _D, _SE, size=256),
    "seresnext26d_32x4d": _variant(16_809_512, 26, _groups(32, 4), _D, _SE),
    "seresnext26t_32x4d": _variant(16_806_976, 26, _groups(32, 4), _T, _SE),
    "seresnext50_32x4d": _variant(27_559_896, 50, _groups(32, 4), _SE),
    "seresnext101_32x4d": _variant(48_955_416, 101, _groups(32, 4), _SE),
    "seresnext101_32x8d": _variant(93_569_048, 101, _groups(32, 8), _SE),
    "seresnext101_64x4d": _variant(88_232_984, 101, _groups(64, 4), _SE),
    "seresnext101d_32x8d": _variant(93_588_280, 101, _groups(32, 8), _D, _SE),
    "senet154": _variant(
        115_088_984, 152, _groups(64, 4), _S, _SE, {"down_kernel_size": 3, "reduce_first": 2}
    ),
    "resnet18_ibn_a": _variant(11_689_512, 18, _BASIC, _IBN_A),
    "resnet34_ibn_a": _variant(21_797_672, 34, _BASIC, _IBN_A),
    "resnet50_ibn_a": _variant(25_557_032, 50, _IBN_A),
    "resnet101_ibn_a": _variant(44_549_160, 101, _IBN_A),
    "resnet152_ibn_a": _variant(60_192_808, 152, _IBN_A),
    "resnet18_ibn_b": _variant(11_689_896, 18, _BASIC, _IBN_B),
    "resnet34_ibn_b": _variant(21_798_056, 34, _BASIC, _IBN_B),
    "resnet50_ibn_b": _variant(25_558_568, 50, _IBN_B),
    "resnet101_ibn_b": _variant(44_550_696, 101, _IBN_B),
    "resnet152_ibn_b": _variant(60_194_344, 152, _IBN_B),
    "resnext50_ibn_a": _variant(25_028_904, 50, _groups(32, 4), _IBN_A),
    "resnext101_ibn_a": _variant(44_177_704, 101, _groups(32, 4), _IBN_A),
    "resnext152_ibn_a": _variant(59_951_400, 152, _groups(32, 4), _IBN_A),
    "skresnet18": _variant(11_958_056, 18, _BASIC, _SK_LIGHT),
    "skresnet34": _variant(22_282_376, 34, _BASIC, _SK_LIGHT),
    "skresnet50": _variant(25_803_160, 50, _SK),
    "skresnet50d": _variant(25_822_392, 50, _D, _SK),
    "skresnext50_32x4d": _variant(27_479_784, 50, _groups(32, 4), _SK_WHOLE),
    "ecaresnet26t": _variant(16_011_916, 26, _T, _ECA, size=256),
    "ecaresnet50d": _variant(25_576_350, 50, _D, _ECA),
    "ecaresnet50t": _variant(25_573_814, 50, _T, _ECA, size=256),
    "ecaresnet101d": _variant(44_568_563, 101, _D, _ECA),
    "ecaresnet200d": _variant(64_693_400, 200, _D, _ECA, size=256),
    "ecaresnet269d": _variant(102_093_077, 269, _D, _ECA, size=320),
    "ecaresnetlight": _variant(
        30_162_046, 50, _ECA, {"average_down": True, "depths": (1, 1, 11, 3)}
    ),
}

register_family("resnet", ResNet, VARIANTS)
