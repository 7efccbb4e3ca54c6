"""UniFormer (Li et al., 2022): relations learned by place on large maps, attention on small ones.

Four stages; a block adds a depthwise convolution to the stream, then the mixer, then the MLP.
The first two stages have batch norms. Names are those of the release.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.layers import BatchNorm, Conv, LayerNorm, fan_in_uniform
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.cas_vit import BatchNormBlock
from scanmax.models.vision.pyramid import Pyramid


class UniFormer(Pyramid):
    """The pyramid of local relations, then attention.

    Attributes:
      mixer: a name of MIXERS, or one per stage.
      norms: of the blocks, "batch_norm" or what `norm` of `Pyramid` may be, one per stage.
      overlap: stem and downsampling by strided 3x3 convolutions with batch norms, as in `_plus`,
        instead of patches with layer norms.
      layer_scale: as `Pyramid` has it, or one per stage.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("uniformer_small", num_classes=10)
      >>> example = scanmax.model_info("uniformer_small").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: uniformer
    """

    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 8, 3)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    mixer: str | tuple[str, ...] = ("local_relation",) * 2 + ("attention",) * 2
    norms: tuple[str, ...] = ("batch_norm",) * 2 + ("layer_norm",) * 2
    overlap: bool = False
    layer_scale: float | tuple[float | None, ...] | None = None
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return BatchNormBlock

    @property
    def statistics(self) -> dict[str, Any]:
        """Fields of every layer with a batch norm."""
        return {"frozen_statistics": self.frozen_statistics, **self.dtypes}

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        dim = self.dims[0]
        if not self.overlap:
            return self.cut(images, dim, self.patch_size, "patch_embed")
        if self.patch_size != 4:
            raise UserError(f"patch_size={self.patch_size}: overlap=True shrinks by 4")
        x = self.halve(images, dim // 2, self.activation, "stem0", train)
        return self.halve(x, dim, None, "stem1", train)

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        name, dim = f"downsample{stage}", self.dims[stage]
        return self.halve(x, dim, None, name, train) if self.overlap else self.cut(x, dim, 2, name)

    @nn.nowrap
    def halve(self, x, dim: int, activation: str | None, name: str, train: bool):
        """A strided convolution and its batch norm."""
        return ConvNorm(
            dim,
            stride=2,
            use_bias=True,
            activation=activation,
            kernel_init=fan_in_uniform(),
            norm_momentum=self.norm_momentum,
            name=name,
            **self.statistics,
        )(x, train)

    @nn.nowrap
    def cut(self, x: Float[Array, "B Y X C"], dim: int, side: int, name: str):
        """Patches and their layer norm."""
        init = {"kernel_init": fan_in_uniform()}
        x = Conv(dim, side, stride=side, padding="VALID", name=name, **init, **self.dtypes)(x)
        return LayerNorm(1e-5, name=f"{name}_norm", **self.dtypes)(x)

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        norm = BatchNorm(momentum=self.norm_momentum, name="norm", **self.statistics)
        return jnp.mean(norm(x, train), axis=(1, 2))

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        scale = self.layer_scale
        for name, given in (("norms", self.norms), ("layer_scale", scale)):
            if isinstance(given, tuple | str) and len(given) != len(self.dims):
                raise UserError(f"{name}={given}: expected {len(self.dims)}, one per stage")
        own = {
            "norm": self.norms[stage],
            "layer_scale": scale[stage] if isinstance(scale, tuple) else scale,
            "position_convs": 1,
            "norm_momentum": self.norm_momentum,
            "frozen_statistics": self.frozen_statistics,
        }
        if self.norms[stage] == "batch_norm":
            own["norm_epsilon"] = 1e-5
        return [fields | own for fields in super().block_fields(stage)]


def _variant(params: int, **fields: Any) -> Variant:
    return Variant(params, (224, 224, 3), "uniformer", fields)


_PLUS = {"depths": (3, 5, 9, 3), "overlap": True}
_BASE = {"depths": (5, 8, 20, 7)}

VARIANTS = {
    "uniformer_small": _variant(21_545_256),
    "uniformer_small_plus": _variant(24_032_552, heads=(2, 4, 10, 16), **_PLUS),
    "uniformer_small_plus_dim64": _variant(24_032_552, **_PLUS),
    "uniformer_base": _variant(49_776_552, **_BASE),
    "uniformer_base_ls": _variant(49_796_520, layer_scale=(None, None, 1e-6, 1e-6), **_BASE),
}

register_family("uniformer", UniFormer, VARIANTS)
