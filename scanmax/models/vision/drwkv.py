"""Diffusion-RWKV (Fei et al., 2024): what is noise in an image, told its time, by linear scans.

Blocks are RWKV's in both directions; time and label scale and shift what each branch reads, and
gate what it adds. A block of the second half reads what its counterpart in the first made.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import names_per_block, rematerialised
from scanmax.models.layers import (
    Dense,
    DropPath,
    Embed,
    LayerNorm,
    PatchEmbed,
    constrain_last,
    partitioned,
    zeros_init,
)
from scanmax.models.mixers import create_mixer, options_of, with_defaults
from scanmax.models.mixers.scan.wkv import ChannelMix
from scanmax.models.parts.conditioning import TimeEmbed, modulated
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap


class ConditionedBlock(nn.Module):
    """x + g1 mixer(m1(norm(x))), then x + g2 mix(m2(norm(x))): gates and changes by what is told.

    Attributes:
      mixer: a name of MIXERS.
      mlp_ratio: width between of the channel mix over the model's.
      layer: which of `layers` this is; the first has a norm in front.
      joins: what another block made is put beside its input, and both are mapped to one width.
    """

    mixer: str
    heads: int
    mlp_ratio: float
    layer: int
    layers: int
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    joins: bool = False
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        told: Float[Array, "B D"],
        other: Float[Array, "B T D"] | None = None,
        drop_path_rate: float | None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        dim, dtypes = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = {"epsilon": self.norm_epsilon, **dtypes}
        if self.joins:
            x = jnp.concatenate([x, other], -1)
            x = Dense(dim, ("embed", "mlp"), name="join", **dtypes)(x)
        change = Dense(
            6 * dim, ("embed", "mlp"), kernel_init=zeros_init, name="modulation", **dtypes
        )
        parts = jnp.split(change(jax.nn.silu(told)), 6, -1)
        if not self.layer:
            x = LayerNorm(name="norm0", **norm)(x)
        at = {"layer": self.layer, "layers": self.layers}
        mixer = create_mixer(
            self.mixer,
            heads=self.heads,
            use_bias=False,
            options=options_of(self.mixer, with_defaults({"wkv": at}, self.mixer_options)),
            name="mixer",
            **dtypes,
        )
        hidden = round(x.shape[-1] * self.mlp_ratio)
        channels = ChannelMix(heads=1, hidden=hidden, name="channel_mix", **at, **dtypes)
        for index, branch in enumerate((mixer, channels)):
            shift, scale, gate = parts[3 * index : 3 * index + 3]
            y = modulated(LayerNorm(name=f"norm{index + 1}", **norm)(x), shift, scale)
            y = gate[:, None] * branch(y, grid=grid, train=train)
            x = x + DropPath()(y, drop_path_rate, train)
        return tap(self, "output", x)


class DiffusionRwkv(nn.Module):
    """Images of the same size from images, times and labels, of whole patches.

    `model.apply(variables, images, timesteps=t, labels=c)`; without times all are 0, and without
    labels they are unknown ones, `label_count`, where the model has any.

    Attributes:
      out_channels: of what it makes of each pixel: the noise, and by default as many for its
        variance, twice the channels of a latent image.
      img_size: side of the images that the position table fits, or (Y, X); at other sizes it is
        resampled. The table starts as sines and cosines, and is learned.
      patch_size: side of a patch.
      depth: blocks, an odd number: as many on either side of the one in the middle.
      mlp_ratio: width between of the channel mixes over the model's.
      label_count: labels that it knows; 0 leaves their table out.
      label_drop_rate: how many labels are taken for unknown in training, so that the model also
        learns to do without.
      mixer: a name of MIXERS, or one per block.
      mixer_options: for any mixer's name, fields of its module.
      heads: of mixers that have them.
      drop_path_rate: the blocks' rates grow from 0 towards it.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("drwkv_s_2")
      >>> example = scanmax.model_info("drwkv_s_2").example()  # [1, 32, 32, 4]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 32, 32, 8)

    Reference: diffusion-rwkv
    """

    out_channels: int = 8
    img_size: int | tuple[int, int] = 32
    patch_size: int = 2
    dim: int = 384
    depth: int = 13
    heads: int = 6
    mlp_ratio: float = 4.0
    label_count: int = 0
    label_drop_rate: float = 0.1
    mixer: str | tuple[str, ...] = "wkv"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    norm_epsilon: float = 1e-5
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool | str = False

    def __call__(
        self,
        images: Float[Array, "B Y X C"],
        train: bool = False,
        *,
        timesteps: Float[Array, "B"] | None = None,
        labels: Int[Array, "B"] | None = None,
    ) -> Float[Array, "B Y X O"]:
        """What is made of every pixel."""
        return self.forward(images, timesteps, labels, train)[0]

    def features(
        self,
        images: Float[Array, "B Y X C"],
        train: bool = False,
        *,
        timesteps: Float[Array, "B"] | None = None,
        labels: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B Yp Xp D"], ...]:
        """The maps that `feature_info` names."""
        return self.forward(images, timesteps, labels, train)[1]

    @nn.compact
    def forward(self, images, timesteps, labels, train):
        """(what is made of the pixels, the maps of `features`)."""
        if not self.depth % 2:
            raise UserError(f"depth={self.depth}: half of the blocks stand on either side of one")
        maps = PatchEmbed(self.dim, self.patch_size, name="patch_embed", **self.dtypes)(images)
        grid, half = maps.shape[1:3], self.depth // 2
        table = ops.resample_positions(self.positions(), self.position_grid(), grid)
        x = jax.lax.collapse(maps, 1, 3) + table.astype(maps.dtype)[None]
        x = tap(self, "stem", constrain_last(x))
        told = self.tell(images.shape[0], timesteps, labels, train)
        block = rematerialised(ConditionedBlock, self.remat, static=(4, 5, 6))
        made, kept = [], {}
        for index, mixer in enumerate(names_per_block(self.mixer, self.depth)):
            layer = block(
                mixer,
                self.heads,
                self.mlp_ratio,
                index,
                self.depth,
                self.mixer_options,
                joins=index > half,
                norm_epsilon=self.norm_epsilon,
                name=f"block_{index:02d}",
                **self.dtypes,
            )
            other = made.pop() if index > half else None
            x = layer(x, told, other, self.drop_path_rate * index / self.depth, grid, train)
            if index < half:
                made.append(x)
            kept[index] = x
        maps = [kept[max(half - 1, 0)], kept[half], kept[self.depth - 1]]
        maps = tuple(y.reshape(y.shape[0], *grid, self.dim) for y in maps)
        return self.paint(x, told, grid), maps

    @nn.nowrap
    def positions(self) -> Float[Array, "N D"]:
        """The position table, which starts as sines and cosines."""
        grid = self.position_grid()

        def start(key, shape, dtype):
            return ops.sincos_2d(grid, shape[-1]).astype(dtype)

        shape = (grid[0] * grid[1], self.dim)
        return self.param("pos_embed", partitioned(start, (None, "embed")), shape, self.param_dtype)

    @nn.nowrap
    def position_grid(self, path: str = "pos_embed") -> tuple[int, int]:
        """Rows and columns of patches that the position table is made for."""
        size = self.img_size
        rows, columns = (size, size) if isinstance(size, int) else size
        return rows // self.patch_size, columns // self.patch_size

    @nn.nowrap
    def tell(self, count: int, timesteps, labels, train: bool) -> Float[Array, "B D"]:
        """What every block is told of each image."""
        times = jnp.zeros((count,), self.dtype) if timesteps is None else jnp.asarray(timesteps)
        if not jnp.issubdtype(times.dtype, jnp.floating):
            times = times.astype(jnp.float32)
        if times.shape != (count,):
            raise ValueError(f"timesteps have shape {times.shape}; expected ({count},).")
        told = TimeEmbed(self.dim, name="time_embed", **self.dtypes)(times)
        if not self.label_count:
            if labels is not None:
                raise UserError("labels: this model knows none; label_count says how many")
            return told
        unknown = self.label_count
        if labels is None:
            labels = jnp.full((count,), unknown, jnp.int32)
        elif train and self.label_drop_rate:
            drops = jax.random.bernoulli(self.make_rng("dropout"), self.label_drop_rate, (count,))
            labels = jnp.where(drops, jnp.asarray(unknown, labels.dtype), labels)
        return told + Embed(unknown + 1, self.dim, name="label_embed", **self.dtypes)(labels)

    @nn.nowrap
    def paint(self, x: Float[Array, "B T D"], told: Float[Array, "B D"], grid: tuple[int, int]):
        """Tokens as patches of what is made of each pixel."""
        x = LayerNorm(epsilon=self.norm_epsilon, name="norm", **self.dtypes)(x)
        x = tap(self, "pre_logits", x)
        zeros = {"kernel_init": zeros_init, **self.dtypes}
        change = Dense(2 * self.dim, ("embed", "mlp"), name="modulation", **zeros)
        shift, scale = jnp.split(change(jax.nn.silu(told)), 2, -1)
        x = modulated(ops.layer_norm(x, epsilon=1e-6), shift, scale)
        side = self.patch_size
        shape = (side, side, self.out_channels)
        axes = ("embed", None, None, "conv_out")
        y = Dense(shape, axes, name="head", **zeros)(x)
        y = y.reshape(y.shape[0], *grid, *shape).swapaxes(2, 3)
        return y.reshape(y.shape[0], grid[0] * side, grid[1] * side, self.out_channels)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        names = ("first_half", "middle", "second_half")
        return tuple(Feature(name, self.patch_size, self.dim) for name in names)


def _variant(params: int, dim: int, depth: int) -> Variant:
    config = {"dim": dim, "depth": depth, "heads": dim // 64}
    return Variant(params, (32, 32, 4), "diffusion-rwkv", config)


VARIANTS = {
    "drwkv_s_2": _variant(38_939_168, 384, 13),
    "drwkv_b_2": _variant(74_409_248, 384, 25),
    "drwkv_m_2": _variant(132_111_392, 512, 25),
    "drwkv_l_2": _variant(438_583_328, 768, 37),
    "drwkv_h_2": _variant(779_288_608, 1024, 37),
}

register_family("drwkv", DiffusionRwkv, VARIANTS)
