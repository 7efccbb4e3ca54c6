"""The all convolutional net (Springenberg et al., 2015): strided convolutions in place of pooling.

Two stages of convolutions, each followed by a reduction to half the side, then a 3x3 convolution,
two 1x1 ones, the last as wide as the classes, and the mean over all places; relu behind every
convolution, the last too, as the paper's tables have it. Networks A, B and C differ in the
convolutions of a stage: one of 5x5; one of 5x5 and one of 1x1; two of 3x3. What reduces them is the
paper's comparison: `pool` (the base network), `stride` in the last convolution of the stage
(Strided-CNN), a 3x3 convolution before the pool (ConvPool-CNN), or that convolution with stride 2
and no pool (All-CNN).

Parameters, biases included, are those of the paper's lists of layers. All-CNN-C on 10 classes:

    3x3, 3 -> 96        2,688     3x3, 96 -> 192       166,080     3x3, 192 -> 192      331,968
    3x3, 96 -> 96      83,040     3x3, 192 -> 192      331,968     1x1, 192 -> 192       37,056
    3x3, 96 -> 96 / 2  83,040     3x3, 192 -> 192 / 2  331,968     1x1, 192 -> 10         1,930

which is 1,369,738. A has 5x5 kernels (7,296 and 460,992) in the place of two 3x3 of a stage, B a
1x1 behind each of them (9,312 and 37,056). The base and Strided-CNN lack the third column's two
strided 3x3 kernels (83,040 and 331,968).

    >>> import scanmax
    >>> scanmax.model_info("all_cnn_c").params
    1369738

Reference: all-cnn
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from scanmax.errors import UserError, suggest
from scanmax.models.blocks import rematerialised
from scanmax.models.layers import Dense, constrain_last
from scanmax.models.parts.conv_norm import ConvNorm, he_init
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import PlainHost, check_size

REDUCTIONS = ("pool", "stride", "conv_pool", "conv")


class AllCnn(PlainHost):
    """Stages of convolutions and reductions, then convolutions up to the classes, and a mean.

    Attributes:
      num_classes: width of the last convolution; 0 gives the mean of the map before it [B, C].
      dims: channels of each stage.
      kernels: sides of the convolutions of each stage, one tuple a stage.
      reduction: what follows a stage: "pool", "stride" (none, its last convolution has stride 2),
        "conv_pool" or "conv".
      stem_stride: of the first convolution.
      stem_padding: zeros around the image; None keeps its size at stride 1.
      same_reduction: reductions see a row of zeros on every side; without it none.
      top_dim: channels of the 3x3 and of the 1x1 convolution behind the stages.
      same_top: the 3x3 one keeps the size of its map; otherwise it takes away a pixel on each side.
      input_dropout_rate: of the image; 0.2 in the paper.
      dropout_rate: behind each reduction; 0.5 in the paper.
    """

    num_classes: int = 10
    dims: tuple[int, ...] = (96, 192)
    kernels: tuple[tuple[int, ...], ...] = ((3, 3), (3, 3))
    reduction: str = "conv"
    stem_stride: int = 1
    stem_padding: int | None = None
    same_reduction: bool = True
    top_dim: int = 192
    same_top: bool = False
    input_dropout_rate: float = 0.0

    @property
    def least_side(self) -> int:
        """The smallest image of which every layer leaves a pixel."""
        side = 1 if self.same_top else 3
        for _ in self.dims:
            side = 2 * side - 1 if self.same_reduction else 2 * side + 1
        kernel, stride = self.kernels[0][0], self.stem_stride
        padding = kernel // 2 if self.stem_padding is None else self.stem_padding
        return max(1, stride * (side - 1) + kernel - 2 * padding)

    @nn.compact
    def forward(self, images, train, as_maps=False):
        if self.reduction not in REDUCTIONS:
            hint = suggest(self.reduction, REDUCTIONS)
            raise UserError(f"unknown reduction {self.reduction!r}; {hint}")
        if len(self.kernels) != len(self.dims):
            raise UserError(
                f"dims={self.dims} and kernels={self.kernels} must name as many stages each"
            )
        check_size(images, self.least_side)
        x = nn.Dropout(self.input_dropout_rate, deterministic=not train)(images)
        maps = []
        for stage, (dim, kernels) in enumerate(zip(self.dims, self.kernels)):
            last = len(kernels) - 1
            for index, kernel in enumerate(kernels):
                halves = self.reduction == "stride" and index == last
                fields = {"stride": 2} if halves else {}
                if stage == index == 0 and not halves:
                    fields = {"stride": self.stem_stride, "padding": self.stem_padding}
                x = self.conv(dim, kernel, f"stage{stage}_conv{index}", **fields)(x, train)
            x = tap(self, f"stage{stage}" if stage else "stem", constrain_last(x))
            if self.reduction != "stride":
                maps.append(x)
                x = self.reduce(x, dim, train, f"stage{stage}_reduction")
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        if as_maps:
            return (*maps, x)
        padding = None if self.same_top else "VALID"
        x = self.conv(self.top_dim, 3, "top1", padding=padding)(x, train)
        x = self.conv(self.top_dim, 1, "top2")(x, train)
        if not self.num_classes:
            return tap(self, "pre_logits", jnp.mean(x, axis=(1, 2)))
        x = tap(self, "pre_logits", x)
        axes = ("embed", "classes")
        x = Dense(self.num_classes, axes, kernel_init=he_init, name="head", **self.dtypes)(x)
        return jnp.mean(nn.relu(x), axis=(1, 2))

    @nn.nowrap
    def conv(self, dim: int, kernel: int, name: str, **fields: Any) -> nn.Module:
        """A convolution with its bias and relu."""
        kind = rematerialised(ConvNorm, self.remat)
        fields |= {"use_bias": True, "use_norm": False, "name": name, **self.dtypes}
        return kind(dim, kernel, **fields)

    @nn.nowrap
    def reduce(self, x, dim: int, train: bool, name: str):
        """Half the side: a convolution, a pool, or both."""
        side = 1 if self.same_reduction else 0
        if self.reduction == "conv":
            return self.conv(dim, 3, name, stride=2, padding=side)(x, train)
        if self.reduction == "conv_pool":
            x = self.conv(dim, 3, name)(x, train)
        return nn.max_pool(
            x, window_shape=(3, 3), strides=(2, 2), padding=((side, side), (side, side))
        )

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels: a map a stage before its reduction, and the last reduced."""
        stages = [
            Feature(f"stage{i}", self.stem_stride * 2**i, dim) for i, dim in enumerate(self.dims)
        ]
        last = Feature("reduced", self.stem_stride * 2 ** len(self.dims), self.dims[-1])
        return (*([] if self.reduction == "stride" else stages), last)


_KERNELS = {"a": ((5,), (5,)), "b": ((5, 1), (5, 1)), "c": ((3, 3), (3, 3))}


def _variant(params: int, network: str, reduction: str) -> Variant:
    config = {"kernels": _KERNELS[network], "reduction": reduction}
    return Variant(params, (32, 32, 3), "all-cnn", config)


VARIANTS = {
    "all_cnn_base_a": _variant(839_242, "a", "pool"),
    "all_cnn_base_b": _variant(885_610, "b", "pool"),
    "all_cnn_base_c": _variant(954_730, "c", "pool"),
    "strided_cnn_a": _variant(839_242, "a", "stride"),
    "strided_cnn_b": _variant(885_610, "b", "stride"),
    "strided_cnn_c": _variant(954_730, "c", "stride"),
    "conv_pool_cnn_a": _variant(1_254_250, "a", "conv_pool"),
    "conv_pool_cnn_b": _variant(1_300_618, "b", "conv_pool"),
    "conv_pool_cnn_c": _variant(1_369_738, "c", "conv_pool"),
    "all_cnn_a": _variant(1_254_250, "a", "conv"),
    "all_cnn_b": _variant(1_300_618, "b", "conv"),
    "all_cnn_c": _variant(1_369_738, "c", "conv"),
    # The paper gives no paddings; these leave the 6x6 places that it names.
    "all_cnn_b_imagenet": Variant(
        9_372_840,
        (224, 224, 3),
        "all-cnn",
        {
            "num_classes": 1000,
            "dims": (96, 256, 384),
            "kernels": ((11, 1), (5, 1), (3, 1)),
            "stem_stride": 4,
            "stem_padding": 2,
            "same_reduction": False,
            "top_dim": 1024,
            "same_top": True,
        },
    ),
}

register_family("all_cnn", AllCnn, VARIANTS)
