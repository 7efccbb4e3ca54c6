"""Context clusters (Ma et al., 2023): images as sets of points, which mix by their clusters.

A pixel carries its place in two more channels; patches of four are the first points, strided
convolutions make fewer of them, and every block mixes the points of a region by its clusters.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.layers import Conv, fan_in_uniform
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.pyramid import Pyramid


def with_places(images: Float[Array, "B Y X C"]) -> Float[Array, "B Y X D"]:
    """Two more channels, the row and the column of each pixel from -1/2 to 1/2.

    >>> with_places(jnp.zeros((1, 1, 3, 1)))[0, 0]
    Array([[ 0. , -0.5, -0.5],
           [ 0. , -0.5,  0. ],
           [ 0. , -0.5,  0.5]], dtype=float32)
    """
    rows, columns = (
        jnp.arange(side, dtype=images.dtype) / max(side - 1, 1) - 0.5 for side in images.shape[1:3]
    )
    places = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1)
    places = jnp.broadcast_to(places[None], (images.shape[0], *places.shape))
    return jnp.concatenate([images, places], axis=-1)


class ContextClusters(Pyramid):
    """The pyramid of points: places beside the colours, and blocks of clusters.

    Attributes:
      head_size: width of a head.
      centers: rows and columns of centres in a region, one number per stage.
      region_sizes: smallest side of a region, one per stage; None makes the whole map one.
      mixer: a name of MIXERS, or one per stage; the three fields above are of "context_cluster".
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("coc_tiny", num_classes=10)
      >>> example = scanmax.model_info("coc_tiny").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: context-cluster
    """

    dims: tuple[int, ...] = (32, 64, 196, 320)
    depths: tuple[int, ...] = (3, 4, 5, 2)
    heads: tuple[int, ...] = (4, 4, 8, 8)
    mlp_ratio: float | tuple[float, ...] = (8.0, 8.0, 4.0, 4.0)
    mixer: str | tuple[str, ...] = "context_cluster"
    position_conv: int = 0
    norm: str = "group_norm"
    norm_epsilon: float = 1e-5
    layer_scale: float | None = 1e-5
    head_size: int = 24
    centers: tuple[int, ...] = (2, 2, 2, 2)
    region_sizes: tuple[int | None, ...] = (7, 7, 7, 7)

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        images = with_places(images.astype(self.dtype))
        options = {"padding": "VALID", "name": "patch_embed"}
        return self.reduced(images, self.dims[0], self.patch_size, self.patch_size, **options)

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        return self.reduced(x, self.dims[stage], 3, 2, padding=1, name=f"downsample{stage}")

    @nn.nowrap
    def reduced(self, x, dim: int, size: int, stride: int, **fields: Any):
        """Fewer points, by a strided convolution."""
        fields |= {"kernel_init": fan_in_uniform(), **self.dtypes}
        return Conv(dim, size, stride=stride, **fields)(x)

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        stages = len(self.dims)
        if len(self.centers) < stages or len(self.region_sizes) < stages:
            raise UserError(
                f"centers={self.centers} and region_sizes={self.region_sizes}: expected {stages} "
                "numbers each"
            )
        own = {
            "head_size": self.head_size,
            "centers": (self.centers[stage],) * 2,
            "region_size": self.region_sizes[stage],
        }
        options = with_defaults({"context_cluster": own}, self.mixer_options)
        return [fields | {"mixer_options": options} for fields in super().block_fields(stage)]


def _variant(params: int, **fields: Any) -> Variant:
    return Variant(params, (224, 224, 3), "context-cluster", fields)


_WIDE = {"dims": (64, 128, 320, 512), "head_size": 32}
_WHOLE = {"region_sizes": (None,) * 4, "centers": (4, 4, 2, 2)}

VARIANTS = {
    "coc_tiny": _variant(5_570_584),
    "coc_tiny2": _variant(5_570_584, centers=(4, 2, 7, 4), region_sizes=(8, 4, 14, 7)),
    "coc_tiny_plain": _variant(5_570_584, **_WHOLE),
    "coc_small": _variant(14_657_024, depths=(2, 2, 6, 2), **_WIDE),
    "coc_medium": _variant(29_290_520, depths=(4, 4, 12, 4), heads=(6, 6, 12, 12), **_WIDE),
    "coc_base_dim64": _variant(54_231_100, depths=(6, 6, 24, 6), heads=(8, 8, 16, 16), **_WIDE),
    "coc_base_dim96": _variant(
        53_054_904,
        depths=(4, 4, 12, 4),
        heads=(8, 8, 16, 16),
        dims=(96, 192, 384, 768),
        head_size=32,
    ),
}

register_family("context_cluster", ContextClusters, VARIANTS)
