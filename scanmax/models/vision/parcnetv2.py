"""ParCNetV2 (Xu et al., 2022): MetaFormer's pyramid with kernels twice as long as the map.

Behind the mixer of oversized kernels a gated perceptron, the bifurcate gate unit, takes the MLP's
place. Norms bring the channels of a place to length one. Names are the release's.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.layers import (
    Dense,
    Initializer,
    LayerNorm,
    activation,
    constrain_last,
    normal_init,
)
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.metaformer import MetaFormer


class GateUnit(nn.Module):
    """The bifurcate gate unit: W (fc1(x) * gelu(gate(x))), no bias behind the product.

    Attributes:
      hidden: width of the gates.
    """

    hidden: int
    activation: str = "gelu"
    use_bias: bool = True
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y, gate = (
            Dense(self.hidden, ("embed", "mlp"), use_bias=self.use_bias, name=name, **dtypes)(x)
            for name in ("fc1", "gate")
        )
        y = constrain_last(y * activation(self.activation)(gate), "mlp")
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        out = {"use_bias": False, "name": "fc2", **dtypes}
        y = Dense(x.shape[-1], ("mlp", "embed"), **out)(y)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(y)


class GateUnitBlock(Block):
    """The pre-norm block with a gate unit in the place of its MLP."""

    @nn.nowrap
    def apply_mlp(
        self, x: Float[Array, "B T D"], grid, train: bool, name: str = "mlp"
    ) -> Float[Array, "B T D"]:
        return GateUnit(
            self.mlp_hidden,
            activation=self.activation,
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
            name=name,
            **self.dtypes,
        )(x, train)


class ParcNetV2(MetaFormer):
    """The pyramid of oversized kernels.

    Attributes:
      mlp_ratio: width of the gates over the stage's; the release counts gates and values together.
      global_sizes: taps of the column and of the row, one number per stage.
      interpolate: bring them to twice the map's sides, which the paper says of other image sizes;
        the release, which it is by default, uses them as they are. At 224 pixels both are the same.
      mixer: a name of MIXERS, or one per stage; the two fields above are of "oversized".
    Others are those of `MetaFormer`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("parcnetv2_xt", num_classes=10)
      >>> example = scanmax.model_info("parcnetv2_xt").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: parcnetv2
    """

    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 3, 12, 3)
    mlp_ratio: float | tuple[float, ...] = 2.5
    mixer: str | tuple[str, ...] = "oversized"
    norm: str = "length_norm"
    global_sizes: tuple[int, ...] = (111, 55, 27, 13)
    interpolate: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return GateUnitBlock

    @property
    def conv_init(self) -> Initializer:
        return normal_init

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        return self.create_norm("patch_norm")(super().stem(images, train))

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        x = self.create_norm(f"downsample{stage}_norm")(x)
        return super().downsample(x, stage, train)

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        norm = LayerNorm(self.norm_epsilon, name="norm", **self.dtypes)
        return norm(jnp.mean(x, axis=(1, 2)))

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        if len(self.global_sizes) < len(self.dims):
            raise UserError(f"global_sizes={self.global_sizes}: expected {len(self.dims)} entries")
        own = {
            "global_size": self.global_sizes[stage],
            "interpolate": self.interpolate,
            "deviation": 0.02,
        }
        options = {"mixer_options": with_defaults({"oversized": own}, self.mixer_options)}
        return [fields | options for fields in super().block_fields(stage)]


def _variant(params: int, depths: tuple[int, ...], **fields: Any) -> Variant:
    return Variant(params, (224, 224, 3), "parcnetv2", {"depths": depths, **fields})


VARIANTS = {
    "parcnetv2_xt": _variant(7_427_720, (3, 3, 9, 2), dims=(48, 96, 192, 320)),
    "parcnetv2_tiny": _variant(24_935_144, (3, 3, 12, 3)),
    "parcnetv2_small": _variant(39_436_520, (3, 9, 24, 3)),
    "parcnetv2_base": _variant(56_368_360, (3, 9, 24, 3), dims=(96, 192, 384, 576)),
}

register_family("parcnetv2", ParcNetV2, VARIANTS)
