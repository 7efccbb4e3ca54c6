"""What PoolFormer's descendants share: overlapping patches, scales of what is added to."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.layers import Conv, Initializer, fan_in_uniform
from scanmax.models.vision.pyramid import Pyramid


class MetaFormer(Pyramid):
    """A pyramid whose maps shrink by overlapping convolutions, three pixels wider than the stride.

    Attributes:
      residual_scales: initial value of the scales of what branches are added to, one per stage;
        None leaves them out.
    Others are those of `Pyramid`.
    """

    heads: tuple[int, ...] = (1, 1, 1, 1)
    position_conv: int = 0
    residual_scales: tuple[float | None, ...] = (None, None, 1.0, 1.0)

    @property
    def conv_init(self) -> Initializer:
        """How the convolutions start that shrink the map."""
        return fan_in_uniform()

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        # Three more pixels than the stride, two of them before the edge.
        stride = self.patch_size
        return self.reduced(images, self.dims[0], stride + 3, stride, 2, "patch_embed")

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        return self.reduced(x, self.dims[stage], 3, 2, 1, f"downsample{stage}")

    @nn.nowrap
    def reduced(self, x, dim: int, size: int, stride: int, padding: int, name: str):
        """A smaller map, by a strided convolution."""
        fields = {"padding": padding, "kernel_init": self.conv_init, **self.dtypes}
        return Conv(dim, size, stride=stride, name=name, **fields)(x)

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        if len(self.residual_scales) < len(self.dims):
            raise UserError(
                f"residual_scales={self.residual_scales}: expected {len(self.dims)} entries"
            )
        scale = {"residual_scale": self.residual_scales[stage]}
        return [fields | scale for fields in super().block_fields(stage)]
