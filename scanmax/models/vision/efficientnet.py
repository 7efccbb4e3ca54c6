"""EfficientNet (Tan and Le, 2019): inverted residuals with gates, and CondConv's of mixed kernels.

A stem that halves, seven stages of inverted residuals of which five halve or begin, a wider layer,
pooling, a head; B1 and on are B0 with more channels and blocks. In `tf_efficientnet_cc_*` every
image mixes the kernels of the last three stages from several. Names, numbers and initial values are
timm's: `tf_*` pad as TensorFlow does, by what the map's size asks for.

    >>> import scanmax
    >>> model = scanmax.create_model("tf_efficientnet_cc_b0_4e", num_classes=10)
    >>> model.experts
    (0, 0, 0, 0, 4, 4, 4)
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import apply_blocks, rematerialised
from scanmax.models.layers import constrain_last
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.parts.inverted_residual import InvertedResidual, normal_by_outputs
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost

# Of a gate's hidden channels, over those that come into the block.
SQUEEZE = 1 / 4


class MobileBlock(InvertedResidual):
    """An inverted residual that stages repeat."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Y X C"],
        drop_path_rate: float | Float[Array, ""] | None = None,
        state: None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B Yo Xo F"]:
        return tap(self, "output", self.summed(x, drop_path_rate, train))


class EfficientNet(MapHost):
    """A stem, stages of inverted residuals, a wider layer, pooling, a head; any image.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dims: channels of each stage.
      depths: blocks of each stage.
      strides: of the first block of each stage.
      kernel_sizes: of the depthwise convolutions, one per stage.
      expansions: channels within the blocks over those that come in, one per stage; 1 has no
        expanding layer.
      experts: kernels that each image mixes, one number per stage; 0 has one kernel for all.
      stem_dim: channels of the first convolution.
      head_dim: channels of the layer before pooling.
      same_padding: strided convolutions pad as TensorFlow, else as torch, the same on both sides.
      activation: of all layers.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block per stage, besides the first; parameters are stacked
        (blocks.stack_blocks).

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("efficientnet_b0", num_classes=10)
      >>> example = scanmax.model_info("efficientnet_b0").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: efficientnet
    """

    dims: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    kernel_sizes: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    experts: tuple[int, ...] = (0,) * 7
    stem_dim: int = 32
    head_dim: int = 1280
    same_padding: bool = False
    activation: str = "silu"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        fields = ("depths", "strides", "kernel_sizes", "expansions", "experts")
        for name in fields:
            if len(getattr(self, name)) != len(self.dims):
                raise UserError(
                    f"{name}={getattr(self, name)}: expected {len(self.dims)} entries, as "
                    f"dims={self.dims}"
                )
        x = self.layer(images, self.stem_dim, 3, "stem0", train, stride=2)
        x = tap(self, "stem", constrain_last(x))
        total, maps = sum(self.depths), []
        # The last block is not the one that drops the most: that would follow it.
        rates = [self.drop_path_rate * index / total for index in range(total)]
        block = rematerialised(MobileBlock, self.remat, static=(4, 5))
        for stage, depth in enumerate(self.depths):
            first, dim = sum(self.depths[:stage]), self.dims[stage]
            own = self.block_fields(stage, x.shape[-1])
            start = block(**own, stride=self.strides[stage], name=f"stage{stage}_start")
            x = start(x, rates[first] or None, None, None, train)
            x, _, _ = apply_blocks(
                [self.block_fields(stage, dim)] * (depth - 1),
                x,
                rates[first + 1 : first + depth],
                train=train,
                remat=self.remat,
                scan_layers=self.scan_layers,
                block=MobileBlock,
                prefix=f"stage{stage}_block",
            )
            x = constrain_last(x)
            if stage in self.kept_stages:
                maps.append(x)
        if as_maps:
            return tuple(maps)
        x = self.layer(x, self.head_dim, 1, "last", train)
        bound = 1 / math.sqrt(max(self.num_classes, 1))
        init = nn.initializers.uniform(2 * bound)
        return self.classify(
            jnp.mean(x, axis=(1, 2)),
            train,
            kernel_init=lambda key, shape, dtype: init(key, shape, dtype) - bound,
        )

    @property
    def shared(self) -> dict[str, Any]:
        """Fields of all that has batch norms."""
        return {
            "activation": self.activation,
            "norm_epsilon": self.norm_epsilon,
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
            **self.dtypes,
        }

    @property
    def padding(self) -> str | None:
        """Of convolutions: TensorFlow's, or as many pixels on both sides."""
        return "SAME" if self.same_padding else None

    @nn.nowrap
    def layer(self, x: Float[Array, "B Y X C"], features: int, size: int, name: str, train, **own):
        """A convolution in front of the stages or behind them, its norm and activation."""
        own |= {"padding": self.padding, "kernel_init": normal_by_outputs(size, features)}
        conv = rematerialised(ConvNorm, self.remat)
        return conv(features, size, name=name, **own, **self.shared)(x, train)

    @nn.nowrap
    def block_fields(self, stage: int, dim: int) -> dict[str, Any]:
        """The fields of a stage's blocks into which so many channels come."""
        return {
            "features": self.dims[stage],
            "kernel_size": self.kernel_sizes[stage],
            "expansion": self.expansions[stage],
            "experts": self.experts[stage],
            "squeeze": max(1, round(dim * SQUEEZE)),
            "skip_expansion": True,
            "by_outputs": True,
            "padding": self.padding,
            **self.shared,
        }

    @property
    def kept_stages(self) -> tuple[int, ...]:
        """The stages before those that halve, and the last."""
        count = len(self.dims)
        return tuple(i for i in range(count) if i + 1 == count or self.strides[i + 1] > 1)

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return tuple(
            Feature(f"stage{stage}", 2 * math.prod(self.strides[: stage + 1]), self.dims[stage])
            for stage in self.kept_stages
        )


def scaled(channels: int, ratio: float) -> int:
    """So many channels times the ratio: the nearest multiple of 8 of at least nine tenths.

    >>> [scaled(channels, 1.4) for channels in (16, 24, 1280)]
    [24, 32, 1792]
    """
    wanted = channels * ratio
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def compound(width: float, depth: float) -> dict[str, Any]:
    """B0's fields with so many times its channels and blocks."""
    base = {"dims": EfficientNet.dims, "stem_dim": EfficientNet.stem_dim}
    dims = tuple(scaled(dim, width) for dim in base["dims"])
    return {
        "dims": dims,
        "depths": tuple(math.ceil(blocks * depth) for blocks in EfficientNet.depths),
        "stem_dim": scaled(base["stem_dim"], width),
        "head_dim": scaled(EfficientNet.head_dim, width),
    }


def _variants() -> dict[str, Variant]:
    # Channels and blocks over B0's, sides of the images there and in TensorFlow, parameters.
    sizes = {
        "b0": (1.0, 1.0, 224, 224, 5_288_548),
        "b1": (1.0, 1.1, 240, 240, 7_794_184),
        "b2": (1.1, 1.2, 256, 260, 9_109_994),
        "b3": (1.2, 1.4, 288, 300, 12_233_232),
        "b4": (1.4, 1.8, 320, 380, 19_341_616),
        "b5": (1.6, 2.2, 448, 456, 30_389_784),
        # Weights of larger ones were released with TensorFlow's paddings alone.
        "b6": (1.8, 2.6, None, 528, 43_040_704),
        "b7": (2.0, 3.1, None, 600, 66_347_960),
        "b8": (2.2, 3.6, None, 672, 87_413_142),
        "l2": (4.3, 5.3, None, 475, 480_309_308),
    }
    as_tensorflow = {"same_padding": True, "norm_epsilon": 1e-3}
    found = {}
    for name, (width, depth, side, tf_side, params) in sizes.items():
        fields = compound(width, depth)
        if side:
            found[f"efficientnet_{name}"] = Variant(params, (side, side, 3), "efficientnet", fields)
        own = {**fields, **as_tensorflow}
        found[f"tf_efficientnet_{name}"] = Variant(
            params, (tf_side, tf_side, 3), "efficientnet", own
        )
    for name, experts, params in (
        ("b0", 4, 13_314_116),
        ("b0", 8, 24_013_284),
        ("b1", 8, 39_715_968),
    ):
        width, depth, _, side, _ = sizes[name]
        fields = {**compound(width, depth), **as_tensorflow}
        fields["experts"] = (0, 0, 0, 0, experts, experts, experts)
        found[f"tf_efficientnet_cc_{name}_{experts}e"] = Variant(
            params, (side, side, 3), "condconv", fields
        )
    return found


VARIANTS = _variants()

register_family("efficientnet", EfficientNet, VARIANTS)
