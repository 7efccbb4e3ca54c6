"""CrossViT (Chen et al., 2021): two transformers over patches of two sizes, under timm's names.

After every few blocks the class token of each branch reads the patches of the other one, in time
linear in their number. The branch of large patches sees a slightly smaller image.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax.models.blocks import apply_blocks
from scanmax.models.layers import (
    Conv,
    Dense,
    DropPath,
    LayerNorm,
    PatchEmbed,
    activation,
    constrain_last,
    drop_path_rates,
    fan_in_uniform,
    normal_init,
    partitioned,
)
from scanmax.models.parts.class_attention import ClassAttention
from scanmax.models.parts.positions import learned_positions
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost

# Of the cubic kernel by which torch enlarges and shrinks; jax.image has -0.5.
CUBIC = -0.75


def cubic_matrix(size: int, new_size: int) -> np.ndarray:
    """[new_size, size] weights of cubic interpolation as torch has it, edges repeated.

    >>> cubic_matrix(2, 2)
    array([[1., 0.],
           [0., 1.]])
    """
    places = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(places).astype(int)
    matrix = np.zeros((new_size, size))
    for tap_index in range(-1, 3):
        distance = np.abs(places - first - tap_index)
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
        columns = np.clip(first + tap_index, 0, size - 1)
        np.add.at(matrix, (np.arange(new_size), columns), np.where(distance <= 1, near, far))
    return matrix


def resize(images: Float[Array, "B Yi Xi C"], size: tuple[int, int]) -> Float[Array, "B Y X C"]:
    """Images of another size by cubic interpolation, as torch has it."""
    if images.shape[1:3] == tuple(size):
        return images
    rows, columns = (
        jnp.asarray(cubic_matrix(*pair), images.dtype) for pair in zip(images.shape[1:3], size)
    )
    return jnp.einsum("uy,byxc,vx->buvc", rows, images, columns)


class ConvPatches(nn.Module):
    """Patches of 12 or 16 pixels by three overlapping convolutions, in the dagger models."""

    features: int
    patch_size: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Yi Xi C"]) -> Float[Array, "B Y X D"]:
        # Stride and padding of the convolutions behind the first, which is 7 x 7 of stride 4.
        steps = {12: ((3, 0), (1, 1)), 16: ((2, 1), (2, 1))}
        if self.patch_size not in steps:
            raise ValueError(f"patch_size={self.patch_size}: stems of convolutions have 12 or 16.")
        if x.shape[1] % self.patch_size or x.shape[2] % self.patch_size:
            raise ValueError(
                f"images have shape {x.shape}; expected [B, Y, X, C] with Y and X multiples of "
                f"patch_size={self.patch_size}."
            )
        for index, (stride, padding) in enumerate(((4, 3), *steps[self.patch_size])):
            x = Conv(
                self.features // 2 ** (2 - index),
                3 if index else 7,
                stride=stride,
                padding=padding,
                kernel_init=fan_in_uniform(),
                name=f"conv{index}",
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )(x)
            x = x if index == 2 else nn.relu(x)
        return x


class Fusion(nn.Module):
    """A class token that reads the patches of another branch, in that one's width.

    out(y), y = q + attention(norm([q, patches])),  q = in(token); in and out: norm, GELU, dense
    """

    heads: int
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        token: Float[Array, "B one D"],
        patches: Float[Array, "B S E"],
        drop_path_rate: float = 0.0,
        train: bool = False,
    ) -> Float[Array, "B one D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def norm(name: str) -> LayerNorm:
            return LayerNorm(self.norm_epsilon, name=name, **dtypes)

        def project(x: Array, dim: int, name: str) -> Array:
            x = activation("gelu")(norm(f"{name}_norm")(x))
            return Dense(dim, ("embed", None), name=name, **dtypes)(x)

        query = project(token, patches.shape[-1], "in")
        both = norm("norm")(jnp.concatenate([query, patches], axis=1))
        read = ClassAttention(self.heads, name="attention", **dtypes)(both)
        query = query + DropPath()(read, drop_path_rate, train)
        return project(query, token.shape[-1], "out")


class CrossVit(MapHost):
    """Two branches of blocks that exchange their class tokens, two norms, the mean of two heads.

    Attributes:
      num_classes: width of the heads; 0 gives both class tokens, [B, sum of dims].
      img_size: side of the images that the position tables fit, or (Y, X); at other sizes they are
        resampled. The first patch size has to divide an image's sides.
      img_scales: of each branch, its image over the given one, to the next whole patch.
      patch_sizes: of each branch.
      dims: width of each branch.
      depths: blocks of each branch between two exchanges.
      stages: how often they exchange.
      heads: of each branch.
      conv_stem: patches by three convolutions, in the dagger models.
      mixer: a name of MIXERS.
      mixer_options: for any mixer's name, fields of its module.
      drop_path_rate: of the last block; earlier ones have less.
      dropout_rate: before the heads.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block for each run of equal ones (blocks.stack_blocks).

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("crossvit_tiny_240", num_classes=10)
      >>> example = scanmax.model_info("crossvit_tiny_240").example()  # [1, 240, 240, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: crossvit
    """

    img_size: int | tuple[int, int] = 240
    img_scales: tuple[float, float] = (1.0, 224 / 240)
    patch_sizes: tuple[int, int] = (12, 16)
    dims: tuple[int, int] = (192, 384)
    depths: tuple[int, int] = (1, 4)
    stages: int = 3
    heads: tuple[int, int] = (6, 6)
    mlp_ratio: float = 4.0
    conv_stem: bool = False
    mixer: str = "attention"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    activation: str = "gelu"
    norm_epsilon: float = 1e-6

    @nn.compact
    def forward(self, images, train, as_maps=False):
        size = images.shape[1:3]
        grids = [self.grid(branch, size) for branch in (0, 1)]
        xs = [self.embed(images, branch) for branch in (0, 1)]
        for branch, x in enumerate(xs):
            tap(self, f"stem{branch}" if branch else "stem", x)
        longest = max(self.depths)
        rates = drop_path_rates(self.drop_path_rate, self.stages * longest)
        for stage in range(self.stages):
            own = rates[stage * longest : (stage + 1) * longest]
            xs = [
                apply_blocks(
                    [self.block_fields(branch)] * depth,
                    xs[branch],
                    own[:depth],
                    grid=grids[branch],
                    train=train,
                    remat=self.remat,
                    scan_layers=self.scan_layers,
                    prefix=f"stage{stage}_branch{branch}_block",
                )[0]
                for branch, depth in enumerate(self.depths)
            ]
            tokens = [
                Fusion(
                    self.heads[1 - branch],
                    self.norm_epsilon,
                    name=f"stage{stage}_fusion{branch}",
                    **self.dtypes,
                )(xs[branch][:, :1], xs[1 - branch][:, 1:], own[-1], train)
                for branch in (0, 1)
            ]
            xs = [
                jnp.concatenate([token, x[:, 1:]], axis=1)
                for token, x in zip(tokens, xs, strict=True)
            ]
        if as_maps:
            return tuple(
                x[:, 1:].reshape(x.shape[0], *grid, x.shape[-1])
                for x, grid in zip(xs, grids, strict=True)
            )
        tokens = [
            LayerNorm(self.norm_epsilon, name=f"norm{branch}", **self.dtypes)(x[:, 0])
            for branch, x in enumerate(xs)
        ]
        return self.classify_both(tokens, train)

    @nn.nowrap
    def grid(self, branch: int, size: tuple[int, int]) -> tuple[int, int]:
        """Patches along the sides of an image, in a branch."""
        scale, patch = self.img_scales[branch], self.patch_sizes[branch]
        rows, columns = (max(1, round(side * scale / patch)) for side in size)
        return rows, columns

    @nn.nowrap
    def position_grid(self, path: str) -> tuple[int, int]:
        """The grid of the position table at that path."""
        size = self.img_size
        return self.grid(int(path[-1]), (size, size) if isinstance(size, int) else size)

    @nn.nowrap
    def embed(self, images: Float[Array, "B Yi Xi C"], branch: int) -> Float[Array, "B T D"]:
        """Patches of a branch behind their class token, with positions."""
        patch, dim = self.patch_sizes[branch], self.dims[branch]
        grid = self.grid(branch, images.shape[1:3])
        if self.img_scales[branch] != 1:
            images = resize(images, (grid[0] * patch, grid[1] * patch))
        stem = ConvPatches if self.conv_stem else PatchEmbed
        x = stem(dim, patch, name=f"patch_embed_{branch}", **self.dtypes)(images)
        x = jax.lax.collapse(x, 1, 3)
        init = partitioned(normal_init, (None, "embed"))
        token = self.param(f"cls_token_{branch}", init, (1, dim), self.param_dtype)
        token = jnp.broadcast_to(token.astype(x.dtype)[None], (x.shape[0], 1, dim))
        name = f"pos_embed_{branch}"
        table = learned_positions(
            self, dim, self.position_grid(name), grid, prefix_tokens=1, name=name
        )
        x = jnp.concatenate([token, x], axis=1) + table.astype(x.dtype)[None]
        return constrain_last(x)

    @nn.nowrap
    def block_fields(self, branch: int) -> dict[str, Any]:
        """The fields of the blocks of a branch."""
        return {
            "mixer": self.mixer,
            "heads": self.heads[branch],
            "mlp_hidden": round(self.dims[branch] * self.mlp_ratio),
            "mixer_options": self.mixer_options,
            "norm_epsilon": self.norm_epsilon,
            "activation": self.activation,
            "prefix_tokens": 1,
            **self.dtypes,
        }

    @nn.nowrap
    def classify_both(self, tokens: list[Float[Array, "B _"]], train: bool):
        """The mean of both heads' logits, or both tokens side by side without heads."""
        both = tap(self, "pre_logits", jnp.concatenate(tokens, axis=-1))
        both = nn.Dropout(self.dropout_rate, deterministic=not train)(both)
        if not self.num_classes:
            return both
        parts = jnp.split(both, (self.dims[0],), axis=-1)
        logits = [
            Dense(self.num_classes, ("embed", "classes"), name=f"head{branch}", **self.dtypes)(x)
            for branch, x in enumerate(parts)
        ]
        return (logits[0] + logits[1]) / 2

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`, one a branch."""
        sizes = zip(self.patch_sizes, self.img_scales, self.dims, strict=True)
        return tuple(
            Feature(f"branch{branch}", round(patch / scale), dim)
            for branch, (patch, scale, dim) in enumerate(sizes)
        )


def _variant(params: int, dim: int, heads: int, depth: int, ratio: float, **fields: Any):
    image = fields.get("img_size", 240)
    config = {
        "dims": (dim, 2 * dim),
        "heads": (heads, heads),
        "depths": (1, depth),
        "mlp_ratio": ratio,
        **fields,
    }
    return Variant(params, (image, image, 3), "crossvit", config)


_DAGGER = {"conv_stem": True}
_LARGE = {"img_size": 408, "img_scales": (1.0, 384 / 408), **_DAGGER}

VARIANTS = {
    "crossvit_tiny_240": _variant(7_014_800, 96, 3, 4, 4.0),
    "crossvit_small_240": _variant(26_856_272, 192, 6, 4, 4.0),
    "crossvit_base_240": _variant(105_025_232, 384, 12, 4, 4.0),
    "crossvit_9_240": _variant(8_553_296, 128, 4, 3, 3.0),
    "crossvit_15_240": _variant(27_528_464, 192, 6, 5, 3.0),
    "crossvit_18_240": _variant(43_271_408, 224, 7, 6, 3.0),
    "crossvit_9_dagger_240": _variant(8_776_592, 128, 4, 3, 3.0, **_DAGGER),
    "crossvit_15_dagger_240": _variant(28_209_008, 192, 6, 5, 3.0, **_DAGGER),
    "crossvit_15_dagger_408": _variant(28_500_080, 192, 6, 5, 3.0, **_LARGE),
    "crossvit_18_dagger_240": _variant(44_266_976, 224, 7, 6, 3.0, **_DAGGER),
    "crossvit_18_dagger_408": _variant(44_606_560, 224, 7, 6, 3.0, **_LARGE),
}

register_family("crossvit", CrossVit, VARIANTS)
