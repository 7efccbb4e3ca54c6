"""MS-MLP (Zheng et al., 2022): ConvNeXt's stages with shifts of growing reach for mixers.

Patches and their norm, stages that halve the map likewise; a block mixes tokens, normalises them
and passes them through an MLP, and adds what comes out, scaled, to its input. Names are those of
the released configurations, whose kernels are larger than the code's defaults.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block, create_norm
from scanmax.models.layers import Conv, fan_in_uniform
from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.pyramid import Pyramid


class MixNormBlock(Block):
    """x + mlp(norm(mixer(x))): one branch, in which the norm follows the mixer."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | Float[Array, ""] | None = None,
        state: None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        y = self.create_mixer(name="mixer")(self.begin(x, grid, train), grid=grid, train=train)
        y = self.gate_channels(y, grid, train)
        y = create_norm(self.norm, epsilon=self.norm_epsilon, name="norm", **self.dtypes)(y)
        if self.has_mlp:
            y = self.apply_mlp(y, grid, train)
        return tap(self, "output", self.add_branch(x, y, "", drop_path_rate, train))


class MsMlp(Pyramid):
    """The pyramid of mixed shifts.

    Attributes:
      sizes: sides of the kernels of each group of channels, a tuple per stage, and
      distances: by how many pixels each group is shifted; both of mixer "mix_shift".
      mixer: a name of MIXERS, or one per stage.
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("ms_mlp_tiny_patch4_shift5_224", num_classes=10)
      >>> example = scanmax.model_info("ms_mlp_tiny_patch4_shift5_224").example()
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: ms-mlp
    """

    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    heads: tuple[int, ...] = (1, 1, 1, 1)
    mixer: str | tuple[str, ...] = "mix_shift"
    overlap: bool = False
    position_conv: int = 0
    layer_scale: float | None = 1e-6
    sizes: tuple[tuple[int, ...], ...] = (
        (1, 1, 3, 5, 7),
        (1, 3, 3, 5, 7),
        (1, 5, 5, 5, 7),
        (1, 7, 7, 7, 7),
    )
    distances: tuple[int, ...] = (-2, -1, 0, 1, 2)

    @property
    def block_type(self) -> type[nn.Module]:
        return MixNormBlock

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        return self.cut(images, self.dims[0], self.patch_size, "patch_embed", "patch_norm")

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        name = f"downsample{stage}"
        return self.cut(x, self.dims[stage], 2, name, f"{name}_norm")

    @nn.nowrap
    def cut(self, x, dim: int, size: int, name: str, norm: str) -> Float[Array, "B Y X D"]:
        """Patches, then their norm."""
        fields = {"padding": "VALID", "kernel_init": fan_in_uniform(), **self.dtypes}
        return self.create_norm(norm)(Conv(dim, size, stride=size, name=name, **fields)(x))

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        return self.last_norm(jnp.mean(x, axis=(1, 2)))

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        stages = len(self.dims)
        if len(self.sizes) < stages:
            raise UserError(f"sizes={self.sizes}: expected {stages} entries")
        own = {"sizes": self.sizes[stage], "distances": self.distances}
        options = with_defaults({"mix_shift": own}, self.mixer_options)
        return [fields | {"mixer_options": options} for fields in super().block_fields(stage)]


def _variant(params: int, dim: int, depth: int) -> Variant:
    config = {"dims": tuple(dim * 2**stage for stage in range(4)), "depths": (3, 3, depth, 3)}
    return Variant(params, (224, 224, 3), "ms-mlp", config)


VARIANTS = {
    "ms_mlp_tiny_patch4_shift5_224": _variant(28_656_232, 96, 9),
    "ms_mlp_small_patch4_shift5_224": _variant(50_303_752, 96, 27),
    "ms_mlp_base_patch4_shift5_224": _variant(88_696_792, 128, 27),
}

register_family("ms_mlp", MsMlp, VARIANTS)
