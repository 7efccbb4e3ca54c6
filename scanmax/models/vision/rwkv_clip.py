"""RWKV-CLIP's image tower (Gu et al., 2024): RWKV-6 in both directions over the patches.

Behind patches, positions and a norm every block has the spatial mix and the channel mix of RWKV,
both behind a shift of the quarters of each head by one pixel. The features are the mean of the last
map, normalised; the release has no head, whose 641,000 parameters are in the counts here.
`scanmax.models.language.rwkv_clip_text` is the other tower, and `TwoTowers` joins them.

    >>> import scanmax
    >>> model = scanmax.create_model("rwkv_clip_b32", num_classes=0)
    >>> model.dim, model.depth
    (640, 12)

Reference: rwkv-clip
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.models.blocks import Block
from scanmax.models.layers import LayerNorm
from scanmax.models.mixers import with_defaults
from scanmax.models.mixers.scan.wkv import ChannelMix
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.vit import VisionTransformer


class RwkvBlock(Block):
    """x + mixer(norm(x)), then x + channel_mix(norm(x)).

    Attributes:
      layer: which of `layers` this is: initial values depend on it.
      shares_near: as of `ChannelMix`.
    """

    layer: int = 0
    layers: int = 12
    shares_near: bool = False

    @nn.nowrap
    def apply_mlp(self, x: Float[Array, "B T D"], grid, train: bool, name: str = "mlp"):
        mix = ChannelMix(
            self.heads,
            hidden=self.mlp_hidden,
            shares_near=self.shares_near,
            layer=self.layer,
            layers=self.layers,
            prefix_tokens=self.prefix_tokens,
            name=name,
            **self.dtypes,
        )
        return mix(x, grid=grid, train=train)


def in_order(
    fields: list[dict[str, Any]], scanned: bool, own: Mapping[str, Any], options: Any
) -> list[dict[str, Any]]:
    """Fields of blocks of RWKV, each told which it is; scanned ones are alike, as the first.

    Args:
      fields: of each block.
      scanned: whether they are scanned.
      own: fields of the mixer "wkv6".
      options: those that the user gives any mixer.
    """
    found, layers = [], len(fields)
    for index, each in enumerate(fields):
        at = {"layer": 0 if scanned else index, "layers": layers}
        mixers = with_defaults({"wkv6": {**own, **at}}, options)
        found.append({**each, **at, "mixer_options": mixers})
    return found


class RwkvClipImage(VisionTransformer):
    """A ViT whose blocks are RWKV's, with a norm behind the positions.

    Attributes:
      mixer: a name of MIXERS, or one per block.
      scan_layers: compile one block for all, whose initial values are then the first one's;
        parameters are stacked (blocks.stack_blocks).
    Others are those of `VisionTransformer`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("rwkv_clip_b32", num_classes=0)
      >>> example = scanmax.model_info("rwkv_clip_b32").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 640)

    Reference: rwkv-clip
    """

    patch_size: int = 32
    dim: int = 640
    heads: int = 8
    mlp_ratio: float = 5.0
    mixer: str | tuple[str, ...] = "wkv6"
    class_token: bool = False
    pool: str = "avg"
    fc_norm: bool | None = False
    norm_epsilon: float = 1e-5

    @nn.nowrap
    def add_positions(self, x: Float[Array, "B T D"], grid: tuple[int, int], train: bool = False):
        x = super().add_positions(x, grid, train)
        fields = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return LayerNorm(self.norm_epsilon, name="embed_norm", **fields)(x)

    @property
    def block_type(self) -> type[nn.Module]:
        return RwkvBlock

    @nn.nowrap
    def plain_block_fields(self) -> list[dict[str, Any]]:
        fields = super().plain_block_fields()
        own = {"use_bias": False}
        return in_order(fields, self.scan_layers, own, self.mixer_options)


VARIANTS = {
    "rwkv_clip_b32": Variant(84_848_360, (224, 224, 3), "rwkv-clip", {}),
    "rwkv_clip_b16": Variant(83_467_880, (224, 224, 3), "rwkv-clip", {"patch_size": 16}),
}

register_family("rwkv_clip", RwkvClipImage, VARIANTS)
