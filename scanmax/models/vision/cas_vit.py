"""CAS-ViT (Zhang et al., 2024): four stages of additive attention by convolutions, for phones.

All norms are batch norms. A block adds a local branch of convolutions, then the mixer, then the
MLP; two heads, of classes and of a teacher, share the pooled map.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.blocks import Block
from scanmax.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    activation,
    fan_in_uniform,
)
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.registry import Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.taps import tap
from scanmax.models.vision.pyramid import Pyramid


class LocalIntegration(nn.Module):
    """Linear map, batch norm, depthwise convolution, activation, linear map, over the grid."""

    activation: str = "gelu"
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], grid: tuple[int, int], train: bool = False
    ) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dim, init = x.shape[-1], {"kernel_init": fan_in_uniform()}
        y = Dense(dim, ("embed", "mlp"), name="fc1", **init, **dtypes)(x)
        statistics = {"momentum": self.norm_momentum, "frozen_statistics": self.frozen_statistics}
        y = BatchNorm(name="norm", **statistics, **dtypes)(y, train)
        conv = Conv(dim, 3, padding=1, groups=dim, name="conv", **init, **dtypes)
        y = conv(y.reshape(y.shape[0], *grid, dim)).reshape(y.shape)
        y = activation(self.activation)(y)
        return Dense(dim, ("mlp", "embed"), name="fc2", **init, **dtypes)(y)


class BatchNormBlock(Block):
    """The residual block whose norms may be batch norms.

    Attributes:
      norm: "batch_norm", or as `Block` has it.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def normed(self, x: Float[Array, "B T D"], index: int | str, train: bool):
        if self.norm != "batch_norm":
            return super().normed(x, index, train)
        return batch_norm(self, f"norm{index}")(x, train)


class CasBlock(BatchNormBlock):
    """x + local(x), then x + mixer(norm(x)), then x + mlp(norm(x)), with batch norms too."""

    @nn.nowrap
    def begin(self, x: Float[Array, "B T D"], grid, train: bool) -> Float[Array, "B T D"]:
        local = LocalIntegration(
            self.activation,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name="local",
            **self.dtypes,
        )
        return x + local(x, grid, train).astype(x.dtype)


def batch_norm(module: nn.Module, name: str) -> BatchNorm:
    """A batch norm by the fields of the module that it is of."""
    return BatchNorm(
        module.norm_epsilon,
        module.norm_momentum,
        frozen_statistics=module.frozen_statistics,
        name=name,
        **module.dtypes,
    )


class CasVit(Pyramid):
    """The pyramid with batch norms, local branches and two heads.

    Attributes:
      norm: "batch_norm", or as `Pyramid` has it.
      distilled: a second head; training returns both heads' logits, evaluation their mean.
      mixer: a name of MIXERS, or one per stage; the norms of "conv_additive" are as all others.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("cas_vit_xs", num_classes=10)
      >>> example = scanmax.model_info("cas_vit_xs").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: cas-vit
    """

    dims: tuple[int, ...] = (48, 56, 112, 220)
    depths: tuple[int, ...] = (2, 2, 4, 2)
    heads: tuple[int, ...] = (1, 1, 1, 1)
    mixer: str | tuple[str, ...] = "conv_additive"
    position_conv: int = 0
    norm: str = "batch_norm"
    norm_epsilon: float = 1e-5
    distilled: bool = True
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return CasBlock

    @property
    def statistics(self) -> dict[str, Any]:
        """Fields of every batch norm."""
        return averaging(self)

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        x = self.halve(images, self.dims[0] // 2, "stem0", "relu", train)
        return self.halve(x, self.dims[0], "stem1", "relu", train)

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        return self.halve(x, self.dims[stage], f"downsample{stage}", None, train)

    @nn.nowrap
    def halve(self, x, dim: int, name: str, activation: str | None, train: bool):
        """A strided convolution and its batch norm."""
        fields = {"kernel_init": fan_in_uniform(), **self.statistics, **self.dtypes}
        conv = ConvNorm(dim, stride=2, use_bias=True, activation=activation, name=name, **fields)
        return conv(x, train)

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        if self.norm != "batch_norm":
            return super().pool(x, prefix, train)
        return jnp.mean(batch_norm(self, "norm")(x, train), axis=(1, 2))

    @nn.nowrap
    def classify(self, x: Float[Array, "B C"], train: bool, **head: Any):
        if not (self.distilled and self.num_classes):
            return super().classify(x, train, **head)
        x = tap(self, "pre_logits", x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        axes = ("embed", "classes")
        logits = tuple(
            Dense(self.num_classes, axes, name=name, **head, **self.dtypes)(x)
            for name in ("head", "head_dist")
        )
        return logits if train else (logits[0] + logits[1]) / 2

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        options = with_defaults({"conv_additive": self.statistics}, self.mixer_options)
        extra = {"mixer_options": options, **self.statistics}
        return [fields | extra for fields in super().block_fields(stage)]


def _variant(params: int, dims: tuple[int, ...], depths: tuple[int, ...]) -> Variant:
    return Variant(params, (224, 224, 3), "cas-vit", {"dims": dims, "depths": depths})


VARIANTS = {
    "cas_vit_xs": _variant(3_200_700, (48, 56, 112, 220), (2, 2, 4, 2)),
    "cas_vit_s": _variant(5_764_224, (48, 64, 128, 256), (3, 3, 6, 3)),
    "cas_vit_m": _variant(12_421_520, (64, 96, 192, 384), (3, 3, 6, 3)),
    "cas_vit_t": _variant(21_763_120, (96, 128, 256, 512), (3, 3, 6, 3)),
}

register_family("cas_vit", CasVit, VARIANTS)
