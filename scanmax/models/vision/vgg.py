"""VGG (Simonyan and Zisserman, 2015): stacks of 3x3 convolutions and max pools, two wide layers.

Five stages of convolutions, each with its bias and relu, in the `_bn` variants with a batch norm
between. The two wide layers are convolutions over the last map, as in the paper's dense
evaluation: what they give at each place is averaged before the head. Names, numbers and initial
values are timm's.

    >>> import scanmax
    >>> model = scanmax.create_model("vgg11", num_classes=10)
    >>> [feature.stride for feature in model.feature_info()]
    [1, 2, 4, 8, 16, 32]

Reference: vgg
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import rematerialised
from scanmax.models.layers import Conv, Dense, Initializer, constrain_last
from scanmax.models.parts.conv_norm import ConvNorm, he_init
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import PlainHost, check_size


class Vgg(PlainHost):
    """Stages of 3x3 convolutions, two wide layers, a pooled map, a head.

    Attributes:
      num_classes: width of the head; 0 gives the pooled map [B, C], without the wide layers.
      dims: channels of each stage.
      depths: convolutions of each stage; a max pool of 2x2 follows the last of them.
      hidden_dim: channels of both wide layers; 0 leaves them out.
      hidden_size: side of the first wide layer's kernel; smaller maps are averaged to that size,
        which repeats places.
      batch_norm: a batch norm follows each convolution of the stages.
      pools_last: a pool follows the last stage too.
      dropout_rate: between the wide layers, and before the head.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
    """

    dims: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    hidden_dim: int = 4096
    hidden_size: int = 7
    batch_norm: bool = False
    pools_last: bool = True
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        if len(self.depths) != len(self.dims):
            raise UserError(
                f"dims={self.dims} and depths={self.depths} must name as many stages each"
            )
        last = len(self.dims) - 1
        check_size(images, 2 ** (last + self.pools_last))
        x, maps = images, []
        for stage, (dim, depth) in enumerate(zip(self.dims, self.depths)):
            for index in range(depth):
                x = self.conv(dim, stage, index)(x, train)
            x = constrain_last(self.finish(x, stage, train))
            x = tap(self, f"stage{stage}" if stage else "stem", x)
            maps.append(x)
            if stage < last or self.pools_last:
                x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        if as_maps:
            return (*maps, x) if self.pools_last else tuple(maps)
        if self.num_classes and self.hidden_dim:
            x = self.widen(x, train)
        return self.classify(jnp.mean(x, axis=(1, 2)), train, kernel_init=self.head_init)

    @property
    def head_init(self) -> Initializer:
        return nn.initializers.normal(0.01)

    @nn.nowrap
    def conv(self, dim: int, stage: int, index: int) -> nn.Module:
        """A convolution of a stage, with what follows it."""
        return rematerialised(ConvNorm, self.remat)(
            dim,
            use_bias=True,
            use_norm=self.batch_norm,
            norm_epsilon=self.norm_epsilon,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name=f"stage{stage}_conv{index}",
            **self.dtypes,
        )

    @nn.nowrap
    def finish(
        self, x: Float[Array, "B Y X C"], stage: int, train: bool
    ) -> Float[Array, "B Y X C"]:
        """What stands behind the convolutions of a stage, before its pool: nothing."""
        return x

    @nn.nowrap
    def widen(self, x: Float[Array, "B Y X C"], train: bool) -> Float[Array, "B y x F"]:
        """Both wide layers, over a map that their kernel fits into."""
        size, places = self.hidden_size, x.shape[1:3]
        if min(places) < size:
            x = ops.adaptive_avg_pool2d(x, tuple(max(size, side) for side in places))
        x = Conv(
            self.hidden_dim,
            size,
            # A kernel that covers the map has one place, whatever its stride: it is a patch.
            stride=size if x.shape[1:3] == (size, size) else 1,
            padding="VALID",
            kernel_init=he_init,
            name="hidden1",
            **self.dtypes,
        )(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(nn.relu(x))
        axes = ("conv_in", "conv_out")
        x = Dense(self.hidden_dim, axes, kernel_init=he_init, name="hidden2", **self.dtypes)(x)
        return nn.relu(x)

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels: a map a stage before its pool, and the last behind its own."""
        stages = [Feature(f"stage{i}", 2**i, dim) for i, dim in enumerate(self.dims)]
        if not self.pools_last:
            return tuple(stages)
        return *stages, Feature("pool", 2 ** len(self.dims), self.dims[-1])


_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _variant(params: int, layers: int, **fields: Any) -> Variant:
    return Variant(params, (224, 224, 3), "vgg", {"depths": _DEPTHS[layers], **fields})


VARIANTS = {
    "vgg11": _variant(132_863_336, 11),
    "vgg13": _variant(133_047_848, 13),
    "vgg16": _variant(138_357_544, 16),
    "vgg19": _variant(143_667_240, 19),
    "vgg11_bn": _variant(132_868_840, 11, batch_norm=True),
    "vgg13_bn": _variant(133_053_736, 13, batch_norm=True),
    "vgg16_bn": _variant(138_365_992, 16, batch_norm=True),
    "vgg19_bn": _variant(143_678_248, 19, batch_norm=True),
}

register_family("vgg", Vgg, VARIANTS)
