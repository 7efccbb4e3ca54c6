"""MOAT (Yang et al., 2022): mobile convolution, then attention, and no MLP.

Two stages of inverted residuals with gates of channels, then two in which attention follows each of
them; the first block of a stage halves the map. Names are those by which the release makes its
models; `no_pe` has no table of positions, and knows places by its convolutions alone.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block, apply_blocks, names_per_block, rematerialised
from scanmax.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    LayerNorm,
    activation,
    constrain_last,
)
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.channel_attention import gate_by_swish
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost, stage_features


class MobileConv(nn.Module):
    """The branch of an inverted residual: norm, expansion, depthwise convolution, projection.

    Attributes:
      features: channels of the result.
      stride: of the convolution, which makes up for a rest of the map by zeros behind it.
      expansion: channels between, over those of the result.
      squeeze: hidden channels of the gate before the projection; 0 leaves the gate out.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    features: int
    stride: int = 1
    expansion: int = 4
    squeeze: int = 0
    activation: str = "gelu"
    norm_epsilon: float = 1e-3
    norm_momentum: float = 0.99
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Y X C"], train: bool = False
    ) -> Float[Array, "B Yo Xo F"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        act, width = activation(self.activation), self.features * self.expansion

        def norm(x, name):
            fields = {"frozen_statistics": self.frozen_statistics, "name": name, **dtypes}
            return BatchNorm(self.norm_epsilon, self.norm_momentum, **fields)(x, train)

        axes = ("conv_in", "conv_out")
        x = Dense(width, axes, use_bias=False, name="expand", **dtypes)(norm(x, "norm0"))
        x = act(norm(constrain_last(x), "norm1"))
        fields = {"stride": self.stride, "groups": width, "use_bias": False, **dtypes}
        x = act(norm(Conv(width, 3, name="conv", **fields)(x), "norm2"))
        if self.squeeze:
            x = gate_by_swish(x, self.squeeze, **dtypes)
        return Dense(self.features, axes, name="project", **dtypes)(x)


class MoatBlock(Block):
    """x + conv(x), then x + mixer(norm(x)), on maps [B, Y, X, C].

    Attributes:
      mixer: a name of MIXERS; "" leaves it out.
      features: channels of the result; where x has others, a linear map of it is added to.
      stride: of the convolution; what is added to is then averaged.
      pool_size: side of those averages, over what of them lies on the map.
      squeeze: hidden channels of the convolution's gate; 0 leaves it out.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    features: int = 0
    stride: int = 1
    pool_size: int = 2
    squeeze: int = 0
    norm_momentum: float = 0.99
    frozen_statistics: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Y X C"],
        drop_path_rate: float | Float[Array, ""] | None = None,
        state: None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B Yo Xo F"]:
        y = MobileConv(
            self.features,
            self.stride,
            squeeze=self.squeeze,
            activation=self.activation,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name="conv",
            **self.dtypes,
        )(x, train)
        x = self.add_branch(self.shortcut(x), y, 1, drop_path_rate, train)
        if self.mixer:
            batch, *grid, dim = x.shape
            tokens = x.reshape(batch, -1, dim)
            normed = LayerNorm(self.norm_epsilon, name="norm", **self.dtypes)(tokens)
            mixed = self.create_mixer(name="mixer")(normed, grid=tuple(grid), train=train)
            tokens = self.add_branch(tokens, mixed, 2, drop_path_rate, train)
            x = tokens.reshape(x.shape)
        return tap(self, "output", x)

    @nn.nowrap
    def shortcut(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Yo Xo F"]:
        """What the convolution's branch is added to."""
        if self.stride > 1:
            x = averaged(x, self.pool_size, self.stride)
        if x.shape[-1] == self.features:
            return x
        return Dense(self.features, ("conv_in", "conv_out"), name="shortcut", **self.dtypes)(x)


def averaged(x: Float[Array, "B Y X C"], size: int, stride: int) -> Float[Array, "B Yo Xo C"]:
    """Means over windows, of what of them lies on the map; as many as strides begin on it."""
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    sums = nn.pool(x, 0.0, jax.lax.add, (size, size), (stride, stride), pads)
    counts = []
    for side, (before, _), places in zip(x.shape[1:3], pads, sums.shape[1:3], strict=True):
        first = np.arange(places) * stride - before
        counts.append(np.minimum(first + size, side) - np.maximum(first, 0))
    share = jnp.asarray(1 / np.outer(*counts)[None, :, :, None], x.dtype)
    return sums * share


class Moat(MapHost):
    """A stem that halves, stages whose first block halves, a pooled norm, a head; any image.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dims: channels of each stage.
      depths: blocks of each stage.
      stem_dim: channels of the stem's two convolutions.
      head_size: channels of a head.
      mixer: a name of MIXERS, or one per stage; "" leaves it out, and the convolutions then have
        gates. The three fields below are of "window".
      window_size: sides of the windows that attend, one per stage; None is the whole map, as in
        classification.
      table_sizes: sides of the window whose differences the table of positions holds, one per
        stage; for other maps it is resampled.
      use_positions: whether there is such a table.
      pool_size: side of the averages over which a halved map is added; the release takes 2 for
        classification and recommends 3 for dense predictions.
      mixer_options: for any mixer's name, fields of its module.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block per stage, besides the first; parameters are stacked
        (blocks.stack_blocks).

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("tiny_moat0_pretrain_256_1k", num_classes=10)
      >>> example = scanmax.model_info("tiny_moat0_pretrain_256_1k").example()  # [1, 256, 256, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: moat
    """

    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 3, 7, 2)
    stem_dim: int = 64
    head_size: int = 32
    mixer: str | tuple[str, ...] = ("", "", "window", "window")
    window_size: tuple[int | None, ...] = (None,) * 4
    table_sizes: tuple[int, ...] = (56, 28, 14, 7)
    use_positions: bool = True
    pool_size: int = 2
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    norm_momentum: float = 0.99
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        lengths = {len(self.depths), len(self.window_size), len(self.table_sizes)}
        if lengths != {len(self.dims)}:
            raise UserError(
                f"depths={self.depths}, window_size={self.window_size} and table_sizes="
                f"{self.table_sizes}: expected {len(self.dims)} entries each, as dims={self.dims}"
            )
        x = tap(self, "stem", constrain_last(self.stem(images, train)))
        total, maps = sum(self.depths), []
        # The last block is not the one that drops the most: that would follow it.
        rates = [self.drop_path_rate * index / total for index in range(total)]
        block = rematerialised(MoatBlock, self.remat, static=(4, 5))
        for stage, depth in enumerate(self.depths):
            first, fields = sum(self.depths[:stage]), self.block_fields(stage)
            start = block(stride=2, name=f"stage{stage}_start", **fields)
            rate = rates[first] or None
            x = start(x, rate, None, None, train)
            x, _, _ = apply_blocks(
                [fields] * (depth - 1),
                x,
                rates[first + 1 : first + depth],
                train=train,
                remat=self.remat,
                scan_layers=self.scan_layers,
                block=MoatBlock,
                prefix=f"stage{stage}_block",
            )
            maps.append(x)
        if as_maps:
            return tuple(maps)
        x = LayerNorm(1e-5, name="norm", **self.dtypes)(jnp.mean(x, axis=(1, 2)))
        return self.classify(x, train)

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        """The map that the first stage halves."""
        x = Conv(self.stem_dim, 3, stride=2, name="stem0", **self.dtypes)(images)
        fields = {"frozen_statistics": self.frozen_statistics, **self.dtypes}
        x = BatchNorm(1e-3, self.norm_momentum, name="stem_norm", **fields)(x, train)
        return Conv(self.stem_dim, 3, name="stem1", **self.dtypes)(activation("gelu")(x))

    @nn.nowrap
    def block_fields(self, stage: int) -> dict[str, Any]:
        """The fields of the blocks of a stage."""
        dim, mixer = self.dims[stage], names_per_block(self.mixer, len(self.dims))[stage]
        if mixer and dim % self.head_size:
            raise UserError(f"head_size={self.head_size} does not divide dims={self.dims}")
        own = {
            "window_size": self.window_size[stage],
            "table_window": self.table_sizes[stage],
            "use_table": self.use_positions,
        }
        return {
            "mixer": mixer,
            "heads": max(1, dim // self.head_size),
            "mlp_hidden": 0,
            "mixer_options": with_defaults({"window": own}, self.mixer_options),
            "norm_epsilon": 1e-5,
            "features": dim,
            "pool_size": self.pool_size,
            "squeeze": 0 if mixer else max(1, dim // 4),
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
            **self.dtypes,
        }

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return stage_features(4, self.dims)


def _variants() -> dict[str, Variant]:
    # Stem, first width, depths; side of the image and the words of its name; parameters with the
    # table of positions, and without.
    sizes = {
        "moat0": (64, 96, (2, 3, 7, 2), "pretrain_224", "1k", 27_846_892, 27_777_544),
        "moat1": (64, 96, (2, 6, 14, 2), "pretrain_224", "1k", 41_598_448, 41_467_864),
        "moat2": (128, 128, (2, 6, 14, 2), "finetune_384", "22k", 73_422_408, 73_248_296),
        "moat3": (160, 160, (2, 12, 28, 2), "finetune_512", "22k", 189_958_040, 189_536_280),
        "moat4": (256, 256, (2, 12, 28, 2), "finetune_512", "22k", 483_214_184, 482_539_368),
        "tiny_moat0": (32, 32, (2, 3, 7, 2), "pretrain_256", "1k", 3_355_348, 3_332_232),
        "tiny_moat1": (40, 40, (2, 3, 7, 2), "pretrain_256", "1k", 5_122_895, 5_094_000),
        "tiny_moat2": (56, 56, (2, 3, 7, 2), "pretrain_256", "1k", 9_772_741, 9_732_288),
        "tiny_moat3": (80, 80, (2, 3, 7, 2), "pretrain_256", "1k", 19_534_390, 19_476_600),
    }
    found = {}
    for name, (stem, dim, depths, way, data, with_table, without) in sizes.items():
        dims = tuple(dim * 2**stage for stage in range(4))
        fields = {"stem_dim": stem, "dims": dims, "depths": depths}
        side = int(way[-3:])
        for words, params, use in ((way, with_table, True), (f"{way}_no_pe", without, False)):
            own = fields if use else {**fields, "use_positions": False}
            found[f"{name}_{words}_{data}"] = Variant(params, (side, side, 3), "moat", own)
    return found


VARIANTS = _variants()

register_family("moat", Moat, VARIANTS)
