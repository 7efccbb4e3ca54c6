"""SMPConv (Kim and Park, 2023): RepLKNet's pyramid, its large kernels made of moving points.

A block mixes by a large kernel beside a small one, then has an MLP whose layers end in batch norms.
Branches and the norms behind convolutions are folded by `merge`:

    >>> import scanmax
    >>> model = scanmax.create_model("smpconv_t", num_classes=10)
    >>> model, variables = model.merge(variables)  # doctest: +SKIP
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.layers import BatchNorm, normal_init
from scanmax.models.mixers import with_defaults
from scanmax.models.mixers.conv.point_reparam import merged_points
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.parts.merging import apply_rule, merged_conv_norm
from scanmax.models.registry import Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.vision.pyramid import Pyramid


class NormedMlp(nn.Module):
    """Two linear maps of pixels with batch norms behind them, and an activation between.

    Attributes:
      hidden: width between.
      merged: the form after training: the norms are in the maps.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    hidden: int
    activation: str = "gelu"
    merged: bool = False
    dropout_rate: float = 0.0
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X D"], train: bool = False) -> Float[Array, "B Y X D"]:
        for index, (width, activation) in enumerate(
            ((self.hidden, self.activation), (x.shape[-1], None))
        ):
            x = ConvNorm(
                width,
                1,
                use_bias=self.merged,
                use_norm=not self.merged,
                activation=activation,
                norm_momentum=self.norm_momentum,
                frozen_statistics=self.frozen_statistics,
                kernel_init=normal_init,
                name=f"fc{index + 1}",
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )(x, train)
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return x


class NormedBlock(Block):
    """The pre-norm block with batch norms, of the branches and behind the layers of the MLP."""

    merged: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def normed(self, x: Float[Array, "B T D"], index: int | str, train: bool):
        fields = {"momentum": self.norm_momentum, "frozen_statistics": self.frozen_statistics}
        return BatchNorm(name=f"norm{index}", **fields, **self.dtypes)(x, train)

    @nn.nowrap
    def apply_mlp(
        self, x: Float[Array, "B T D"], grid, train: bool, name: str = "mlp"
    ) -> Float[Array, "B T D"]:
        mlp = NormedMlp(
            self.mlp_hidden,
            activation=self.activation,
            merged=self.merged,
            dropout_rate=self.dropout_rate,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name=name,
            **self.dtypes,
        )
        return mlp(x.reshape(x.shape[0], *grid, x.shape[-1]), train).reshape(x.shape)


class SmpConvNet(Pyramid):
    """The pyramid of kernels of moving points.

    Attributes:
      kernel_sizes: side of the large kernels, odd, one per stage.
      mixer: a name of MIXERS, or one per stage; the field above is of "smp_reparam".
      merged: the form after training, for which `merge` gives the model and its variables.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("smpconv_t", num_classes=10)
      >>> example = scanmax.model_info("smpconv_t").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: smpconv
    """

    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 8, 2)
    heads: tuple[int, ...] = (1, 1, 1, 1)
    mixer: str | tuple[str, ...] = "smp_reparam"
    position_conv: int = 0
    kernel_sizes: tuple[int, ...] = (31, 29, 27, 13)
    merged: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return NormedBlock

    @property
    def after_training(self) -> dict[str, Any]:
        """Fields that say how norms are kept, of blocks and mixers alike."""
        return averaging(self, "merged")

    @nn.nowrap
    def conv_norm(self, x, train: bool, features: int, size: int, stride: int, name: str):
        """A convolution, its batch norm and a ReLU; each channel alone where it is not 1x1."""
        alone = size > 1 and x.shape[-1] == features
        return ConvNorm(
            features,
            size,
            stride=stride,
            groups=features if alone else 1,
            use_bias=self.merged,
            use_norm=not self.merged,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            kernel_init=normal_init,
            name=name,
            **self.dtypes,
        )(x, train)

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        if self.patch_size != 4:
            raise UserError(f"patch_size={self.patch_size}: the stem halves twice, 4")
        x = images
        for index, (size, stride) in enumerate(((3, 2), (3, 1), (1, 1), (3, 2))):
            x = self.conv_norm(x, train, self.dims[0], size, stride, f"stem{index}")
        return x

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        x = self.conv_norm(x, train, self.dims[stage], 1, 1, f"downsample{stage}_expand")
        return self.conv_norm(x, train, self.dims[stage], 3, 2, f"downsample{stage}")

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        fields = {"momentum": self.norm_momentum, "frozen_statistics": self.frozen_statistics}
        x = BatchNorm(name="norm", **fields, **self.dtypes)(x, train)
        return jnp.mean(x, axis=(1, 2))

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        if len(self.kernel_sizes) < len(self.dims):
            raise UserError(f"kernel_sizes={self.kernel_sizes}: expected {len(self.dims)} entries")
        own = {"kernel_size": self.kernel_sizes[stage], **self.after_training}
        options = with_defaults({"smp_reparam": own}, self.mixer_options)
        extra = {"mixer_options": options, **self.after_training}
        return [fields | extra for fields in super().block_fields(stage)]

    @nn.nowrap
    def merge(self, variables: Mapping[str, Any]) -> tuple["SmpConvNet", dict[str, Any]]:
        """The model after training and its variables: one kernel in each mixer, fewer norms.

        Points become the taps that they give, the small kernels are added to them, and batch norms
        behind convolutions and linear maps go into these. Norms in front of branches and of the
        pooling stay, as in the release.

        Args:
          variables: "params" and "batch_stats" of this model, its layers scanned or not.

        Returns:
          (the model with `merged=True`, its variables, without logical axes).

        Raises:
          UserError: when this model is merged.
        """
        if self.merged:
            raise UserError("merge: this model is merged already")
        variables = nn.meta.unbox(dict(variables))
        for stage in range(len(self.dims)):
            prefix = f"stage{stage}_block"
            own, rest = (
                {
                    collection: {k: v for k, v in tree.items() if k.startswith(prefix) is inside}
                    for collection, tree in variables.items()
                }
                for inside in (True, False)
            )
            # The number of points does not tell it.
            size = self.block_fields(stage)[0]["mixer_options"]["smp_reparam"]["kernel_size"]
            own, _ = apply_rule(own, functools.partial(merged_points, size=size))
            variables = {name: {**rest[name], **own.get(name, {})} for name in rest}
        variables, _ = apply_rule(variables, merged_conv_norm)
        return self.clone(merged=True), variables


VARIANTS = {
    "smpconv_t": Variant(26_705_248, (224, 224, 3), "smpconv", {}),
    "smpconv_b": Variant(
        79_546_520,
        (224, 224, 3),
        "smpconv",
        {"dims": (128, 256, 512, 1024), "depths": (2, 2, 20, 2)},
    ),
}

register_family("smpconv", SmpConvNet, VARIANTS)
