"""HorNet (Rao et al., 2022): ConvNeXt's stages with recursive gated convolutions for mixers.

Patches of four, stages that halve the map behind a norm, pre-norm blocks whose two branches are
scaled. The order of the interactions grows by one a stage. Names are the authors': `_7x7` has
depthwise convolutions for gates, `_gf` global-local filters in the two last stages.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.pyramid import Pyramid


class HorNet(Pyramid):
    """The pyramid of recursive gates.

    Attributes:
      img_size: side, or (Y, X), of the images whose maps the global filters have their weights for;
        they are brought to others by frequency, where the released code stretches its table.
      orders: of the interactions, one per stage; 2^(order - 1) divides the stage's channels.
      neighbourhoods: "conv" or "global_local", one per stage.
      mixer: a name of MIXERS, or one per stage; the three fields above are of "gn_conv".
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("hornet_tiny_7x7", num_classes=10)
      >>> example = scanmax.model_info("hornet_tiny_7x7").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: hornet
    """

    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 3, 18, 2)
    heads: tuple[int, ...] = (1, 1, 1, 1)
    mixer: str | tuple[str, ...] = "gn_conv"
    overlap: bool = False
    position_conv: int = 0
    layer_scale: float | None = 1e-6
    img_size: int | tuple[int, int] = 224
    orders: tuple[int, ...] = (2, 3, 4, 5)
    neighbourhoods: tuple[str, ...] = ("conv",) * 4

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        return self.last_norm(jnp.mean(x, axis=(1, 2)))

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        stages, size = len(self.dims), self.img_size
        if len(self.orders) < stages or len(self.neighbourhoods) < stages:
            raise UserError(
                f"orders={self.orders} and neighbourhoods={self.neighbourhoods}: expected {stages} "
                "entries each"
            )
        sides = (size, size) if isinstance(size, int) else size
        own = {
            "order": self.orders[stage],
            "neighbourhood": self.neighbourhoods[stage],
            "filter_grid": tuple(side // (self.patch_size * 2**stage) for side in sides),
        }
        options = with_defaults({"gn_conv": own}, self.mixer_options)
        return [fields | {"mixer_options": options} for fields in super().block_fields(stage)]


def _variant(params: int, dim: int, filters: bool = False, size: int = 224) -> Variant:
    config = {"dims": tuple(dim * 2**stage for stage in range(4)), "img_size": size}
    if filters:
        config["neighbourhoods"] = ("conv", "conv", "global_local", "global_local")
    return Variant(params, (size, size, 3), "hornet", config)


VARIANTS = {
    "hornet_tiny_7x7": _variant(22_409_512, 64),
    "hornet_tiny_gf": _variant(22_991_848, 64, True),
    "hornet_small_7x7": _variant(49_528_264, 96),
    "hornet_small_gf": _variant(50_401_768, 96, True),
    "hornet_base_7x7": _variant(87_256_680, 128),
    "hornet_base_gf": _variant(88_421_352, 128, True),
    "hornet_base_gf_img384": _variant(92_099_560, 128, True, 384),
    "hornet_large_7x7": _variant(194_542_504, 192),
    "hornet_large_gf": _variant(196_289_512, 192, True),
    "hornet_large_gf_img384": _variant(201_806_824, 192, True, 384),
}

register_family("hornet", HorNet, VARIANTS)
