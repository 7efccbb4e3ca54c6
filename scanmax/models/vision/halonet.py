"""HaloNet (Vaswani et al., 2021) as timm has it: ResNets some of whose 3x3 are halo attention.

A stem, four stages of bottlenecks, a pooled map, a head. A block reads 1x1, then a 3x3 convolution
or the attention of blocks of the map to themselves and the pixels around them, then 1x1. Attention
that halves the map asks every second query of a block. Names and numbers are timm's, and so are the
zeros that attention sees outside the map.

    >>> import scanmax
    >>> model = scanmax.create_model("halonet26t", num_classes=10)
    >>> [(feature.stride, feature.channels) for feature in model.feature_info()]
    [(2, 64), (4, 256), (8, 512), (16, 1024), (32, 2048)]

Any image size; where blocks do not tile a map, the last of them hold zeros.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import (
    BatchNorm,
    Dense,
    DropPath,
    activation,
    constrain_last,
    drop_path_rates,
    partitioned,
    zeros_init,
)
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import PlainHost
from scanmax.models.vision.resnet import create_gate


class HaloLayer(nn.Module):
    """Halo attention of a map, without biases and without a projection of what comes out.

    Attributes:
      heads: how many; values have C / heads channels each.
      head_dim: channels of queries and keys of each head; None takes those of the values.
      block_size: side of the blocks; the stride divides it.
      halo: pixels of keys around them.
    """

    heads: int = 8
    head_dim: int | None = None
    block_size: int = 8
    halo: int = 3
    stride: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Yo Xo C"]:
        channels = x.shape[-1]
        if channels % self.heads:
            raise ValueError(f"heads={self.heads} do not divide {channels} channels.")
        value_dim = channels // self.heads
        key_dim = self.head_dim or value_dim
        fields = {
            "axes": ("embed", "heads", "kv"),
            "use_bias": False,
            "kernel_init": nn.initializers.normal(channels**-0.5),
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        query = Dense((self.heads, key_dim), name="query", **fields)(x)
        both = Dense((self.heads, key_dim + value_dim), name="key_value", **fields)(x)
        key, value = both[..., :key_dim], both[..., key_dim:]
        # Tables as published; what would be 2 halo pixels further no key is.
        init = partitioned(nn.initializers.normal(key_dim**-0.5), (None, "kv"))
        shape = (2 * (self.block_size + 2 * self.halo) - 1, key_dim)
        rows, columns = (
            self.param(f"relative_{name}", init, shape, self.param_dtype)[2 * self.halo :]
            for name in ("rows", "columns")
        )
        y = ops.halo_attention(
            query,
            key,
            value,
            rows.astype(self.dtype),
            columns.astype(self.dtype),
            block_size=self.block_size,
            halo=self.halo,
            stride=self.stride,
            edges="zero",
        )
        return jax.lax.collapse(y, 3)


class HaloBlock(nn.Module):
    """act(shortcut(x) + conv(act(norm(attention(conv(x)))))), or a convolution for the attention.

    Attributes:
      features: channels that come out.
      hidden: channels between.
      attention: fields of a `HaloLayer`; None has a 3x3 convolution with its gate.
      groups: of that convolution.
      channel_attention: the gate, of CHANNEL_ATTENTION; None leaves it out.
      projects: the shortcut is a 1x1 convolution with its norm, not the identity.
      norm: fields of every `BatchNorm`.
    """

    features: int
    hidden: int
    norm: Any
    attention: Mapping[str, Any] | None = None
    stride: int = 1
    groups: int = 1
    channel_attention: str | None = None
    projects: bool = False
    activation: str = "relu"
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
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        act = activation(self.activation)
        y = self.conv(self.hidden, 1, "conv1")(x, train)
        if self.attention is None:
            stride = {"stride": self.stride, "groups": self.groups}
            y = self.conv(self.hidden, 3, "conv2", **stride)(y, train)
            if self.channel_attention is not None:
                y = create_gate(self.channel_attention, self.hidden, **dtypes)(y, train)
        else:
            y = HaloLayer(stride=self.stride, name="attention", **self.attention, **dtypes)(y)
            y = act(BatchNorm(name="attention_norm", **self.norm, **dtypes)(y, train))
        # Nothing is added at first: a deep network starts as a shallow one.
        last = {"activation": None, "scale_init": zeros_init}
        y = self.conv(self.features, 1, "conv3", **last)(y, train)
        if self.projects:
            fields = {"activation": None, "stride": self.stride}
            x = self.conv(self.features, 1, "shortcut", **fields)(x, train)
        x = act(x + DropPath()(y, drop_path_rate, train))
        return tap(self, "output", constrain_last(x))

    @nn.nowrap
    def conv(self, features: int, size: int, name: str, **fields: Any) -> ConvNorm:
        fields = {"activation": self.activation, **statistics_of(self.norm), **fields}
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return ConvNorm(features, size, name=name, **fields, **dtypes)


def statistics_of(norm: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a `BatchNorm` as those of a `ConvNorm`."""
    return {key if "_" in key else f"norm_{key}": value for key, value in norm.items()}


class HaloNet(PlainHost):
    """Stem, stages of bottlenecks with convolutions or halo attention, a pooled map, a head.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dims: channels of each stage.
      hidden_dims: channels within its blocks.
      depths: blocks of each stage.
      attention: of each stage the indices of its blocks that attend.
      heads: of the attention in each stage.
      head_dim: channels of queries and keys of each head; None takes those of the values.
      block_size: side of the blocks of attention.
      halo: pixels of keys around them.
      group_size: channels of each group of the 3x3 convolutions; 0 has one group.
      stem_dims: channels of the stem's convolutions: one of 7x7, or several of 3x3.
      stem_pool: a max pool halves the map behind the stem; else its last convolution does.
      last_dim: channels of a last 1x1 convolution; 0 leaves it out.
      channel_attention: a gate behind each 3x3 convolution, "se", "eca" or "cbam".
      drop_path_rate: of the last block; earlier ones have less.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
    """

    dims: tuple[int, ...] = (256, 512, 1024, 2048)
    hidden_dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    attention: tuple[tuple[int, ...], ...] = ((), (), (1,), (0, 1))
    heads: tuple[int, ...] = (8, 8, 8, 8)
    head_dim: int | None = None
    block_size: int = 8
    halo: int = 3
    group_size: int = 0
    stem_dims: tuple[int, ...] = (24, 32, 64)
    stem_pool: bool = True
    last_dim: int = 0
    activation: str = "relu"
    channel_attention: str | None = None
    drop_path_rate: float = 0.0
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        stages = (self.dims, self.hidden_dims, self.depths, self.attention, self.heads)
        if len({len(entry) for entry in stages}) > 1:
            raise UserError(
                f"dims={self.dims}, hidden_dims={self.hidden_dims}, depths={self.depths}, "
                f"attention={self.attention} and heads={self.heads} must name as many stages each"
            )
        norm = {
            "epsilon": self.norm_epsilon,
            "momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
        }
        conv = {"activation": self.activation, **statistics_of(norm), **self.dtypes}
        x, last = images, len(self.stem_dims) - 1
        for index, dim in enumerate(self.stem_dims):
            if index == last and not self.stem_pool:
                maps = [tap(self, "stem", constrain_last(x))]
            halves = not index or (index == last and not self.stem_pool)
            size = 3 if last else 7
            stem = ConvNorm(dim, size, stride=2 if halves else 1, name=f"stem{index}", **conv)
            x = stem(x, train)
        if self.stem_pool:
            maps = [tap(self, "stem", constrain_last(x))]
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        rates = drop_path_rates(self.drop_path_rate, sum(self.depths))
        for stage, depth in enumerate(self.depths):
            first = sum(self.depths[:stage])
            blocks = [self.block_fields(stage, index, x.shape[-1]) for index in range(depth)]
            x, _, _ = apply_blocks(
                [{**fields, "norm": norm} for fields in blocks],
                x,
                rates[first : first + depth],
                train=train,
                remat=self.remat,
                block=HaloBlock,
                prefix=f"stage{stage}_block",
            )
            maps.append(x)
        if self.last_dim:
            maps[-1] = x = ConvNorm(self.last_dim, 1, name="last", **conv)(x, train)
        if as_maps:
            return tuple(maps)
        init = nn.initializers.normal(0.01)
        return self.classify(jnp.mean(x, axis=(1, 2)), train, kernel_init=init)

    @nn.nowrap
    def block_fields(self, stage: int, index: int, channels: int) -> dict[str, Any]:
        """The fields of block `index` of a stage that gets so many channels, but its norms'."""
        stride = 2 if stage and not index else 1
        attention = {
            "heads": self.heads[stage],
            "head_dim": self.head_dim,
            "block_size": self.block_size,
            "halo": self.halo,
        }
        hidden = self.hidden_dims[stage]
        return {
            "features": self.dims[stage],
            "hidden": hidden,
            "attention": attention if index in self.attention[stage] else None,
            "stride": stride,
            "groups": hidden // self.group_size if self.group_size else 1,
            "channel_attention": self.channel_attention,
            "projects": stride > 1 or (not index and channels != self.dims[stage]),
            "activation": self.activation,
            **self.dtypes,
        }

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        dims = (*self.dims[:-1], self.last_dim or self.dims[-1])
        stages = tuple(Feature(f"stage{i}", 4 * 2**i, dim) for i, dim in enumerate(dims))
        return Feature("stem", 2, self.stem_dims[-1 if self.stem_pool else -2]), *stages


def _variant(params: int, **config: Any) -> Variant:
    return Variant(params, (256, 256, 3), "", config)


VARIANTS = {
    "halonet_h1": _variant(
        8_100_056,
        dims=(64, 128, 256, 512),
        depths=(3, 3, 10, 3),
        attention=tuple(tuple(range(depth)) for depth in (3, 3, 10, 3)),
        stem_dims=(64,),
    ),
    "halonet26t": _variant(12_480_288, halo=2),
    "sehalonet33ts": _variant(
        13_691_712,
        dims=(256, 512, 1024, 1536),
        depths=(2, 3, 3, 2),
        attention=((), (2,), (2,), (0, 1)),
        stem_pool=False,
        last_dim=1280,
        activation="silu",
        channel_attention="se",
    ),
    "halonet50ts": _variant(
        22_733_280,
        depths=(3, 4, 6, 3),
        attention=((), (3,), (1, 3, 5), (1,)),
        heads=(8, 4, 8, 8),
        activation="silu",
    ),
    "eca_halonext26ts": _variant(
        10_756_885,
        head_dim=16,
        halo=2,
        group_size=16,
        activation="silu",
        channel_attention="eca",
    ),
}

register_family("halonet", HaloNet, VARIANTS)
