"""SCNet (Wu et al., 2023): images of more pixels by products over channels and shifts alone.

No kernel is larger than 1 by 1: between the two products of a block, and of what enlarges the map,
eighths of the channels are shifted to a pixel's neighbours. What the network makes is added to the
image enlarged between its pixels. The tiny network is the one that the authors have released, with
maps enlarged between pixels or, under `_ps`, out of channels. Nothing that is public says how wide
and deep the paper's larger ones are: `dim` and `depth` make them.

Reference: scnet-shift-conv
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError, suggest
from scanmax.models.blocks import Block, apply_blocks, names_per_block
from scanmax.models.layers import Dense, constrain_last
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.upsample import bilinear_upsample, pixel_shuffle
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import check_size

UPSAMPLERS = ("bilinear", "pixel_shuffle")
# A tenth of He's: every block starts near the identity.
_init = nn.initializers.variance_scaling(0.02, "fan_in", "normal")


class BareBlock(Block):
    """x + mixer(x), and nothing is normed."""

    @nn.nowrap
    def normed(self, x: Float[Array, "B T D"], index, train: bool) -> Float[Array, "B T D"]:
        return x


class ShiftUpsample(nn.Module):
    """A map enlarged by a factor: a product, a shift in eight directions, a product.

    Attributes:
      factor: how many times as many rows and columns.
      upsampler: "bilinear" enlarges the map before, "pixel_shuffle" behind the products.
    """

    factor: int
    upsampler: str = "bilinear"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X D"]) -> Float[Array, "B U V D"]:
        own = {"kernel_init": _init, "dtype": self.dtype, "param_dtype": self.param_dtype}
        dim, shuffles = x.shape[-1], self.upsampler == "pixel_shuffle"
        if not shuffles:
            x = bilinear_upsample(x, self.factor)
        x = Dense(dim, ("embed", "mlp"), name="in_proj", **own)(x)
        x = ops.shift_eight(jax.nn.leaky_relu(x, 0.02))
        dim = dim * self.factor**2 if shuffles else dim
        x = Dense(dim, ("mlp", "embed"), name="out_proj", **own)(x)
        return pixel_shuffle(x, self.factor) if shuffles else x


class ScNet(nn.Module):
    """Blocks of a mixer at the image's own size, then steps that enlarge their map.

    Attributes:
      out_channels: of the images that it makes; to as many of the images given they are added.
      dim: channels of the map; 8 divides them.
      depth: blocks.
      upscale: how many times as many rows and columns its images have: a power of two, or 3.
      upsampler: "bilinear" or "pixel_shuffle".
      mixer: a name of MIXERS, or one per block.
      mixer_options: for any mixer's name, fields of its module.
      heads: of mixers that have them; "shift_conv" has none.
      drop_path_rate: of every block.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block for all; parameters are stacked (blocks.stack_blocks).

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("scnet_t_x4")
      >>> example = scanmax.model_info("scnet_t_x4").example()  # [1, 64, 64, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 256, 256, 3)

    Reference: scnet-shift-conv
    """

    out_channels: int = 3
    dim: int = 64
    depth: int = 16
    upscale: int = 4
    upsampler: str = "bilinear"
    mixer: str | tuple[str, ...] = "shift_conv"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    heads: int = 1
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool | str = False
    scan_layers: bool = False

    def __call__(
        self, images: Float[Array, "B Y X C"], train: bool = False
    ) -> Float[Array, "B U V O"]:
        """The images of more pixels."""
        return self.forward(images, train)

    def features(
        self, images: Float[Array, "B Y X C"], train: bool = False
    ) -> tuple[Float[Array, "B Y X D"], ...]:
        """The maps that `feature_info` names."""
        return self.forward(images, train, as_maps=True)

    @nn.compact
    def forward(self, images, train, as_maps=False):
        check_size(images, 1)
        factors = self.factors()
        x = self.dense(self.dim, ("conv_in", "embed"), "embed")(images.astype(self.dtype))
        x = tap(self, "stem", jax.nn.leaky_relu(x, 0.1))
        names = names_per_block(self.mixer, self.depth)
        own = {"shift_conv": {"kernel_init": _init}}
        fields = [
            {
                "mixer": name,
                "heads": self.heads,
                "mlp_hidden": 0,
                "mixer_options": with_defaults(own, self.mixer_options),
                **self.dtypes,
            }
            for name in names
        ]
        tokens, _, _ = apply_blocks(
            fields,
            jax.lax.collapse(x, 1, 3),
            (self.drop_path_rate,) * self.depth,
            grid=x.shape[1:3],
            train=train,
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=BareBlock,
        )
        x = constrain_last(tokens.reshape(x.shape))
        if as_maps:
            return (x,)
        for index, factor in enumerate(factors):
            up = ShiftUpsample(factor, self.upsampler, name=f"up{index}", **self.dtypes)
            x = jax.nn.leaky_relu(up(x), 0.1)
        x = jax.nn.leaky_relu(self.dense(self.dim, ("embed", "mlp"), "last")(x), 0.1)
        x = tap(self, "pre_logits", x)
        y = self.dense(self.out_channels, ("mlp", "conv_out"), "head")(x)
        if images.shape[-1] != self.out_channels:
            return y
        return y + bilinear_upsample(images.astype(self.dtype), self.upscale)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def dense(self, features: int, axes: tuple[str, ...], name: str) -> Dense:
        return Dense(features, axes, kernel_init=_init, name=name, **self.dtypes)

    @nn.nowrap
    def factors(self) -> tuple[int, ...]:
        """The steps in which the map is enlarged: of 4 and 8 by two each time."""
        if self.upsampler not in UPSAMPLERS:
            raise UserError(
                f"unknown upsampler {self.upsampler!r}; {suggest(self.upsampler, UPSAMPLERS)}"
            )
        twice = self.upscale.bit_length() - 1
        if self.upscale != 3 and (self.upscale < 2 or self.upscale != 2**twice):
            raise UserError(f"upscale={self.upscale}: expected 3, or a power of two from 2 on")
        return (3,) if self.upscale == 3 else (2,) * twice

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the map behind the blocks."""
        return (Feature("body", 1, self.dim),)


def _tiny(params: int, upscale: int, upsampler: str = "bilinear") -> Variant:
    # The released crops of 256 pixels, as they are read at a quarter of that.
    config = {"upscale": upscale, "upsampler": upsampler}
    return Variant(params, (64, 64, 3), "scnet-shift-conv", config)


VARIANTS = {
    "scnet_t_x2": _tiny(146_051, 2),
    "scnet_t_x3": _tiny(146_051, 3),
    "scnet_t_x4": _tiny(154_371, 4),
    "scnet_t_x8": _tiny(162_691, 8),
    "scnet_t_x2_ps": _tiny(158_531, 2, "pixel_shuffle"),
    "scnet_t_x3_ps": _tiny(179_331, 3, "pixel_shuffle"),
    "scnet_t_x4_ps": _tiny(179_331, 4, "pixel_shuffle"),
    "scnet_t_x8_ps": _tiny(200_131, 8, "pixel_shuffle"),
}

register_family("scnet", ScNet, VARIANTS)
