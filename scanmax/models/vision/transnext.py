"""TransNeXt (Shi, 2024): aggregated attention on large maps, length-scaled cosines on the last.

PVTv2's four stages with other mixers: each pixel reads those around it and pooled ones of the whole
map under one softmax. A convolution inside each MLP makes a gate. Names are those of the release.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.conv_mlp import ConvMlp
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.pvt_v2 import PvtV2


class GatedConvBlock(Block):
    """The pre-norm block with an MLP whose gate is convolved.

    Attributes:
      mlp_hidden: width of the MLP as if it had no gate; with it, two thirds are left.
    """

    @nn.nowrap
    def apply_mlp(self, x: Float[Array, "B T D"], grid, train: bool) -> Float[Array, "B T D"]:
        return ConvMlp(
            2 * self.mlp_hidden // 3,
            activation=self.activation,
            gated=True,
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
            name="mlp",
            **self.dtypes,
        )(x, grid, train)


class TransNext(PvtV2):
    """PVTv2's pyramid with aggregated attention, then cosine attention, and gates in its MLPs.

    Attributes:
      img_size: side of the images, or (Y, X), by which distances between pixels are measured, as
        in pretraining; images of any size serve.
      reductions: sides of the cells that pooled keys are means of, one per stage; of "aggregated".
      mixer: a name of MIXERS, or one per stage.
    Others are those of `PvtV2`, without `linear`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("transnext_micro", num_classes=10)
      >>> example = scanmax.model_info("transnext_micro").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: transnext
    """

    img_size: int | tuple[int, int] = 224
    dims: tuple[int, ...] = (72, 144, 288, 576)
    depths: tuple[int, ...] = (2, 2, 15, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    mixer: str | tuple[str, ...] = ("aggregated",) * 3 + ("cosine",)
    reductions: tuple[int, ...] = (8, 4, 2, 1)

    @property
    def block_type(self) -> type[nn.Module]:
        return GatedConvBlock

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        if self.linear:
            raise UserError("linear=True is of PVTv2; here `reductions` says what is pooled")
        size = self.img_size
        rows, columns = (size, size) if isinstance(size, int) else size
        stride = self.patch_size * 2**stage
        grid = {"pretrain_grid": (rows // stride, columns // stride)}
        own = {
            "aggregated": {"pool_ratio": self.reductions[stage], **grid},
            "cosine": {"position_bias": "log_cpb", **grid},
        }
        blocks = []
        for fields in super().block_fields(stage):
            options = with_defaults(own, fields["mixer_options"])
            kept = {key: value for key, value in fields.items() if key != "first_relu"}
            blocks.append(kept | {"mixer_options": options})
        return blocks


def _variant(params: int, size: int = 224, **fields: Any) -> Variant:
    return Variant(params, (size, size, 3), "transnext", fields)


_MICRO = {"dims": (48, 96, 192, 384), "heads": (2, 4, 8, 16)}

VARIANTS = {
    "transnext_micro": _variant(12_809_304, **_MICRO),
    "transnext_micro_AAAA": _variant(
        13_114_008, 256, img_size=256, mixer="aggregated", reductions=(16, 8, 4, 2), **_MICRO
    ),
    "transnext_tiny": _variant(28_258_960),
    "transnext_small": _variant(49_741_564, depths=(5, 5, 22, 5)),
    "transnext_base": _variant(
        89_721_496, dims=(96, 192, 384, 768), depths=(5, 5, 23, 5), heads=(4, 8, 16, 32)
    ),
}

register_family("transnext", TransNext, VARIANTS)
