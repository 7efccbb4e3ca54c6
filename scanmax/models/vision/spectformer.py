"""SpectFormer (Patro et al., 2023): spectral gating on large maps, attention on small ones.

Four stages of pre-norm blocks with a convolution inside their MLPs: the first two gate the spectrum
of the map, the last two attend. A class token made of the mean reads the last map, and each of its
pixels is classified as well.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import Dense, LayerNorm, Mlp
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.class_attention import ClassAttention
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.pvt_v2 import PvtV2


class ReadingBlock(nn.Module):
    """The class token reads all tokens, then passes through an MLP; the others stay.

    Attributes:
      heads: of the class attention.
      mlp_hidden: width of the MLP.
    """

    heads: int
    mlp_hidden: int
    norm_epsilon: float = 1e-6
    activation: str = "gelu"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = LayerNorm(self.norm_epsilon, name="norm1", **dtypes)(x)
        token = x[:, :1] + ClassAttention(self.heads, name="attention", **dtypes)(y)
        y = LayerNorm(self.norm_epsilon, name="norm2", **dtypes)(token)
        mlp = Mlp(self.mlp_hidden, activation=self.activation, name="mlp", **dtypes)
        return jnp.concatenate([token + mlp(y, train=train), x[:, 1:]], axis=1)


class SpectFormer(PvtV2):
    """PVTv2's pyramid of spectral gates, then attention; a class token and classified pixels.

    Attributes:
      img_size: side of the images, or (Y, X), that the filters have their weights for; those of
        other sizes are brought to them by frequency.
      stem_dim: channels of the stem's first three convolutions.
      token_labels: pixels have a head of their own, half of whose largest logits are added. The
        release trains it by labels of pixels; here training sees the same sum.
      mixer: a name of MIXERS, or one per stage.
      norm_momentum: weight of the old averages of the stem's batch norms at each training step.
      frozen_statistics: they keep their averages, in training too: for fine-tuning.
    Others are those of `PvtV2`. The last map of `features` is not normalised, the others are.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("spectformer_s", num_classes=10)
      >>> example = scanmax.model_info("spectformer_s").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: spectformer
    """

    img_size: int | tuple[int, int] = 224
    dims: tuple[int, ...] = (64, 128, 320, 448)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    heads: tuple[int, ...] = (2, 4, 10, 14)
    mlp_ratio: float | tuple[float, ...] = (8.0, 8.0, 4.0, 4.0)
    mixer: str | tuple[str, ...] = ("global_filter",) * 2 + ("spatial_reduction",) * 2
    reductions: tuple[int, ...] = (1, 1, 1, 1)
    stem_dim: int = 32
    token_labels: bool = True
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        x = images
        for index, (size, stride) in enumerate(((7, 2), (3, 1), (3, 1))):
            x = ConvNorm(
                self.stem_dim,
                size,
                stride=stride,
                norm_momentum=self.norm_momentum,
                frozen_statistics=self.frozen_statistics,
                name=f"stem{index}",
                **self.dtypes,
            )(x, train)
        return self.patches(x, self.dims[0], 3, 2, "patch_embed")

    @nn.nowrap
    def end_stage(self, x: Float[Array, "B Y X C"], stage: int) -> Float[Array, "B Y X C"]:
        # The last norm is of the class token too.
        return x if stage == len(self.dims) - 1 else super().end_stage(x, stage)

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        ratio = self.mlp_ratio[-1] if isinstance(self.mlp_ratio, tuple) else self.mlp_ratio
        block = ReadingBlock(
            self.heads[-1],
            round(self.dims[-1] * ratio),
            norm_epsilon=self.norm_epsilon,
            activation=self.activation,
            name="class_block",
            **self.dtypes,
        )
        x = jax.lax.collapse(x, 1, 3)
        x = jnp.concatenate([jnp.mean(x, axis=1, keepdims=True), x], axis=1)
        return self.create_norm("norm")(block(x, train))

    @nn.nowrap
    def classify(self, x: Float[Array, "B T C"], train: bool, **head: Any):
        y = super().classify(x[:, 0], train, **head)
        if not (self.token_labels and self.num_classes):
            return y
        axes = ("embed", "classes")
        pixels = Dense(self.num_classes, axes, name="pixel_head", **head, **self.dtypes)(x[:, 1:])
        return y + jnp.max(pixels, axis=1) / 2

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        size = self.img_size
        rows, columns = (size, size) if isinstance(size, int) else size
        stride = self.patch_size * 2**stage
        grid = (-(-rows // stride), -(-columns // stride))
        own = {"global_filter": {"filter_grid": grid}}
        return [
            fields | {"mixer_options": with_defaults(own, fields["mixer_options"])}
            for fields in super().block_fields(stage)
        ]


def _variant(params: int, **fields: Any) -> Variant:
    return Variant(params, (224, 224, 3), "spectformer", fields)


VARIANTS = {
    "spectformer_s": _variant(22_226_928),
    "spectformer_b": _variant(
        33_052_880,
        dims=(64, 128, 320, 512),
        depths=(3, 4, 12, 3),
        heads=(2, 4, 10, 16),
        stem_dim=64,
    ),
    "spectformer_l": _variant(
        54_675_792,
        dims=(96, 192, 384, 512),
        depths=(3, 6, 18, 3),
        heads=(3, 6, 12, 16),
        stem_dim=64,
    ),
}

register_family("spectformer", SpectFormer, VARIANTS)
