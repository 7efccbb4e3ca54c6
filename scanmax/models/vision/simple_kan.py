"""SimpleKAN: the four and eight layers by which the paper compares the functions of its layers.

3x3 layers of splines, Gaussian bumps, Legendre's, Chebyshev's or Gram's polynomials or of a wavelet
an edge, some with a stride of 2, the mean over all places, a head. Counts are those of the report
for CIFAR-10, whose images have three channels, with norms that have a scale and an offset; four
layers of Chebyshev's and of Gram's polynomials have four groups behind the first. It lists others
too, which fields give: no `affine`, `norm_layer` "instance", degree 5 and one group.

    >>> import scanmax
    >>> scanmax.model_info("simple_kagn_8").params
    22613114

Reference: kan-conv
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from scanmax.errors import UserError
from scanmax.models.blocks import rematerialised
from scanmax.models.layers import constrain_last, fan_in_uniform
from scanmax.models.parts.kan_layers import KanConvNorm
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import PlainHost, check_size


class SimpleKan(PlainHost):
    """Layers of functions, the mean over all places, a head.

    Attributes:
      dims: channels of each layer.
      strides: of each layer.
      kind, options, base, squash, reduction, groups, experts: as in `KanConvNorm`, but the first
        has one group.
      norm_layer, affine, norm_epsilon, norm_momentum, frozen_statistics: as in `KanConvNorm`.
      layer_dropout_rate: of every layer but the first, as `KanConvNorm` has it; 0.25 in the report.
      dropout_rate: before the head; 0.5 in the report.
    """

    num_classes: int = 10
    dims: tuple[int, ...] = (32, 64, 128, 256)
    strides: tuple[int, ...] = (1, 2, 2, 1)
    kind: str = "kagn"
    options: Mapping[str, Any] | None = None
    base: str | None = None
    squash: str | None = None
    reduction: float | None = None
    groups: int = 1
    experts: Mapping[str, Any] | None = None
    layer_dropout_rate: float = 0.0
    norm_layer: str = "batch"
    affine: bool = True
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def forward(self, images, train, as_maps=False):
        if len(self.strides) != len(self.dims):
            raise UserError(
                f"dims={self.dims} and strides={self.strides} must name as many layers each"
            )
        check_size(images, 1)
        x, maps = images, []
        for index in range(len(self.dims)):
            x = constrain_last(self.layer(index)(x, train))
            x = tap(self, f"map{index}" if index else "stem", x)
            maps.append(x)
        if as_maps:
            return tuple(maps)
        return self.classify(jnp.mean(x, axis=(1, 2)), train, kernel_init=fan_in_uniform())

    @nn.nowrap
    def layer(self, index: int) -> nn.Module:
        """The layer of that place."""
        names = ("kind", "options", "base", "squash", "reduction", "experts", "norm_layer")
        names += ("affine", "norm_epsilon", "norm_momentum", "frozen_statistics")
        return rematerialised(KanConvNorm, self.remat)(
            self.dims[index],
            stride=self.strides[index],
            groups=self.groups if index else 1,
            dropout_rate=self.layer_dropout_rate if index else 0.0,
            name=f"layer{index}",
            **{name: getattr(self, name) for name in names},
            **self.dtypes,
        )

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of every layer's map."""
        stride, found = 1, []
        for index, (dim, step) in enumerate(zip(self.dims, self.strides)):
            stride *= step
            found.append(Feature(f"layer{index}", stride, dim))
        return tuple(found)


_EIGHT = {
    "dims": (16, 32, 64, 128, 256, 256, 512, 512),
    "strides": (1, 2, 2, 1, 1, 2, 1, 1),
}


def _variant(params: int, kind: str, *parts: Mapping[str, Any]) -> Variant:
    config: dict[str, Any] = {"kind": kind}
    for fields in parts:
        config |= fields
    return Variant(params, (32, 32, 3), "kan-conv", config)


VARIANTS = {
    "simple_kan_4": _variant(3_494_958, "kan"),
    "simple_fastkan_4": _variant(3_494_448, "fastkan"),
    "simple_kaln_4": _variant(1_943_210, "kaln"),
    "simple_kacn_4": _variant(394_058, "kacn", {"groups": 4}),
    "simple_kagn_4": _variant(491_706, "kagn", {"groups": 4}),
    "simple_wavkan_4": _variant(952_650, "wavkan"),
    "simple_kan_8": _variant(40_696_610, "kan", _EIGHT),
    "simple_fastkan_8": _variant(40_695_584, "fastkan", _EIGHT),
    "simple_kaln_8": _variant(22_613_082, "kaln", _EIGHT),
    "simple_kacn_8": _variant(18_092_202, "kacn", _EIGHT),
    "simple_kagn_8": _variant(22_613_114, "kagn", _EIGHT),
    "simple_wavkan_8": _variant(10_732_202, "wavkan", _EIGHT),
}

register_family("simple_kan", SimpleKan, VARIANTS)
