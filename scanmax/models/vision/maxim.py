"""MAXIM (Tu et al., 2022): images made of images, by U-Nets of multi-axis gated MLPs.

Each stage is a U-Net: blocks of the gated MLP and of convolutions at every scale, skips of all
scales that the features from below gate and are gated by, and images at several scales. The next
stage reads the image again, gated by what the last one made of its own. Names are the release's,
S-1 to M-3, with images at the three scales of its trained weights, where its code's default is one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block, apply_blocks
from scanmax.models.layers import Conv, Dense, Mlp
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.channel_attention import SqueezeExcite
from scanmax.models.parts.enlarge import Enlarge
from scanmax.models.parts.multi_axis import CrossGating
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap

_lecun_init = nn.initializers.lecun_normal()


class RestoringBlock(Block):
    """x + mixer(norm(x)), then x + gate(f(norm(x))): f convolves or is an MLP, by channels gated.

    Attributes:
      convolves: f is two convolutions, as at every scale; otherwise an MLP, as at the bottom.
      reduction: the gate's hidden layer has D / reduction channels.
    """

    convolves: bool = True
    reduction: int = 4

    @nn.nowrap
    def apply_mlp(self, x: Float[Array, "B T D"], grid, train: bool) -> Float[Array, "B T D"]:
        dim, fields = x.shape[-1], {"use_bias": self.use_bias, **self.dtypes}
        y = x.reshape(x.shape[0], *grid, dim)
        if self.convolves:
            own = {"kernel_init": _lecun_init, **fields}
            y = jax.nn.leaky_relu(Conv(self.mlp_hidden, 3, name="conv1", **own)(y), 0.2)
            y = Conv(dim, 3, name="conv2", **own)(y)
        else:
            y = Mlp(self.mlp_hidden, activation="gelu_tanh", name="mlp", **fields)(y, train=train)
        y = SqueezeExcite(reduction=self.reduction, name="channel_attention", **fields)(y)
        return y.reshape(x.shape)


class Maxim(nn.Module):
    """Stages of U-Nets that restore images of any size.

    Called, it gives the restored images [B, Y, X, C]; in training all that a loss may read, the
    tuples of `restorations`. An image whose sides are no multiples of the largest block or grid at
    any scale is continued by reflection, half on each side, and what falls there is cut off.

    Attributes:
      out_channels: of the images that it makes; to as many of the images given they are added.
      dims: channels at each scale, finest first; every scale is half as large as that before.
      depth: blocks at each scale, on the way down and up, and in each bottleneck.
      stages: U-Nets one after the other.
      bottlenecks: below the last scale.
      supervised_scales: scales at which each stage reads and makes images, from the finest.
      block_sizes: sides of the blocks at each scale, and of the bottlenecks', and
      grid_sizes: sides of the grids: both of "multi_axis" and of the gates between maps.
      reduction: the channel gates' hidden layers are that much narrower.
      mixer: a name of MIXERS.
      mixer_options: for any mixer's name, fields of its module.
      heads: of mixers that have them; "multi_axis" has none.
      dropout_rate: of what mixers and gates add.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block for those of one scale; parameters are stacked.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("maxim_s1")
      >>> example = scanmax.model_info("maxim_s1").example()  # [1, 256, 256, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 256, 256, 3)

    Reference: maxim
    """

    out_channels: int = 3
    dims: tuple[int, ...] = (32, 64, 128)
    depth: int = 2
    stages: int = 2
    bottlenecks: int = 2
    supervised_scales: int = 3
    block_sizes: tuple[int, ...] = (16, 16, 8, 8)
    grid_sizes: tuple[int, ...] = (16, 16, 8, 8)
    reduction: int = 4
    mixer: str = "multi_axis"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    heads: int = 1
    use_bias: bool = True
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool | str = False
    scan_layers: bool = False

    def __call__(self, images: Float[Array, "B Y X C"], train: bool = False):
        """The last stage's finest images; in training those of all stages and scales."""
        made = self.forward(images, train)[0]
        return made if train else made[-1][0]

    def restorations(
        self, images: Float[Array, "B Y X C"], train: bool = False
    ) -> tuple[tuple[Float[Array, "B Ys Xs O"], ...], ...]:
        """The images of each stage, at each supervised scale, finest first."""
        return self.forward(images, train)[0]

    def features(
        self, images: Float[Array, "B Y X C"], train: bool = False
    ) -> tuple[Float[Array, "B Ys Xs D"], ...]:
        """The maps that `feature_info` names."""
        return self.forward(images, train)[1]

    @nn.compact
    def forward(self, images, train):
        """(images by stage and scale, maps of the last stage by scale)."""
        self.check_fields()
        sides = images.shape[1:3]
        inputs, corner = self.continued(images.astype(self.dtype))
        made, attended, before, maps = [], [], [], []
        for stage in range(self.stages):
            read = []
            for scale, image in enumerate(inputs):
                x = self.conv(self.dims[scale], f"stage{stage}_input{scale}")(image)
                if stage:
                    fuse = self.gate(scale, f"stage{stage}_fuse{scale}")
                    x, _ = fuse(x, attended[scale], train)
                read.append(x)
            if not stage:
                read[0] = tap(self, "stem", read[0])
            down, x = self.go_down(stage, read, before, train)
            maps = self.go_up(stage, down, x, train)
            before = [own + other for own, other in zip(down, maps)]
            last = stage == self.stages - 1
            if last:
                maps[0] = tap(self, "pre_logits", maps[0])
            attended, own = [], []
            for scale, image in enumerate(inputs):
                name = f"stage{stage}_image{scale}"
                y = self.conv(self.out_channels, name)(maps[scale])
                y = y + image if image.shape[-1] == self.out_channels else y
                own.append(cut(y, corner, sides, scale))
                if not last:
                    name = f"stage{stage}_attention{scale}"
                    attended.append(self.attend(maps[scale], y, name))
            made.append(tuple(own))
        maps = tuple(cut(x, corner, sides, scale) for scale, x in enumerate(maps))
        return tuple(made), maps

    @nn.nowrap
    def go_down(self, stage: int, read: Sequence[Array], before: Sequence[Array], train: bool):
        """The maps of each scale, and that of the bottlenecks."""
        maps, x = [], read[0]
        for scale, dim in enumerate(self.dims):
            if scale < len(read):
                x = jnp.concatenate([x, read[scale]], -1)
            x = self.unit(x, scale, f"stage{stage}_down{scale}", train)
            if before:
                x, _ = self.gate(scale, f"stage{stage}_gate{scale}")(x, before[scale], train)
            maps.append(x)
            shrink = self.conv(dim, f"stage{stage}_shrink{scale}", size=4, stride=2, padding=1)
            x = shrink(x)
        for index in range(self.bottlenecks):
            x = self.unit(x, len(self.dims), f"stage{stage}_bottom{index}", train)
        return maps, x

    @nn.nowrap
    def go_up(self, stage: int, down: Sequence[Array], x: Array, train: bool) -> list[Array]:
        """The maps of each scale on the way up from that of the bottlenecks."""
        scales = range(len(self.dims))
        # Coarsest first, as they are put side by side.
        skips, maps, y = [], list(down), x
        for scale in reversed(scales):
            y = self.enlarge(scale, f"stage{stage}_enlarge{scale}")(y)
            skip = self.gather(down, scale, y.shape[1:3], f"stage{stage}_collect{scale}")
            skip, y = self.gate(scale, f"stage{stage}_cross{scale}")(skip, y, train)
            skips.append(skip)
        for scale in reversed(scales):
            sides = down[scale].shape[1:3]
            skip = self.gather(skips, scale, sides, f"stage{stage}_spread{scale}")
            x = self.enlarge(scale, f"stage{stage}_up{scale}_enlarge")(x)
            x = jnp.concatenate([x, skip], -1)
            x = maps[scale] = self.unit(x, scale, f"stage{stage}_up{scale}", train)
        return maps

    @nn.nowrap
    def unit(self, x: Float[Array, "B Y X C"], scale: int, name: str, train: bool):
        """A projection, blocks, and what went into these added again."""
        bottom = scale == len(self.dims)
        dim = self.dims[min(scale, len(self.dims) - 1)]
        x = self.project(dim, f"{name}_proj")(x)
        sizes = {
            "block_size": (self.block_sizes[scale],) * 2,
            "grid_size": (self.grid_sizes[scale],) * 2,
        }
        fields = {
            "mixer": self.mixer,
            "mixer_options": with_defaults({"multi_axis": sizes}, self.mixer_options),
            "heads": self.heads,
            "mlp_hidden": dim,
            "convolves": not bottom,
            "reduction": self.reduction,
            "use_bias": self.use_bias,
            "dropout_rate": self.dropout_rate,
            **self.dtypes,
        }
        tokens, _, _ = apply_blocks(
            [fields] * self.depth,
            jax.lax.collapse(x, 1, 3),
            (0.0,) * self.depth,
            grid=x.shape[1:3],
            train=train,
            remat=self.remat,
            scan_layers=self.scan_layers,
            block=RestoringBlock,
            prefix=f"{name}_block",
        )
        return tokens.reshape(x.shape) + x

    @nn.nowrap
    def gather(self, maps: Sequence[Float[Array, "B _ _ _"]], scale: int, sides, name: str):
        """Maps of all scales, in their order, at one and of its width, side by side."""
        brought = []
        for index, x in enumerate(maps):
            if x.shape[1:3] != sides:
                shape = (x.shape[0], *sides, x.shape[-1])
                x = jax.image.resize(x, shape, "bilinear", precision="highest")
            brought.append(self.project(self.dims[scale], f"{name}_{index}")(x))
        return jnp.concatenate(brought, -1)

    @nn.nowrap
    def attend(self, x: Float[Array, "B Y X D"], image: Float[Array, "B Y X O"], name: str):
        """What the next stage reads of a map: x times what the image made of it says of places."""
        y = self.conv(x.shape[-1], f"{name}_value")(x)
        return y * nn.sigmoid(self.conv(x.shape[-1], f"{name}_gate")(image)) + x

    @nn.nowrap
    def gate(self, scale: int, name: str) -> CrossGating:
        return CrossGating(
            self.dims[scale],
            (self.block_sizes[scale],) * 2,
            (self.grid_sizes[scale],) * 2,
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
            name=name,
            **self.dtypes,
        )

    @nn.nowrap
    def enlarge(self, scale: int, name: str) -> Enlarge:
        fields = {"kernel_size": 2, "kernel_init": _lecun_init, "use_bias": self.use_bias}
        return Enlarge(self.dims[scale], name=name, **fields, **self.dtypes)

    @nn.nowrap
    def conv(self, dim: int, name: str, size: int = 3, **fields: Any) -> Conv:
        own = {"kernel_init": _lecun_init, "use_bias": self.use_bias, "name": name, **self.dtypes}
        return Conv(dim, size, **own, **fields)

    @nn.nowrap
    def project(self, dim: int, name: str) -> Dense:
        own = {"kernel_init": _lecun_init, "use_bias": self.use_bias, "name": name, **self.dtypes}
        return Dense(dim, ("conv_in", "conv_out"), **own)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def multiple(self) -> int:
        """What divides the sides of the images that are not continued."""
        sizes = zip(self.block_sizes, self.grid_sizes, strict=True)
        return math.lcm(*(2**scale * math.lcm(*pair) for scale, pair in enumerate(sizes)))

    @nn.nowrap
    def continued(self, images: Float[Array, "B Y X C"]):
        """([images at each supervised scale], rows and columns that stand before the first)."""
        more = [-size % self.multiple for size in images.shape[1:3]]
        corner = tuple(n // 2 for n in more)
        borders = [(low, n - low) for low, n in zip(corner, more)]
        images = jnp.pad(images, [(0, 0), *borders, (0, 0)], mode="reflect")
        # Behind the middle of each cell, as the nearest pixel is taken.
        coarse = [
            images[:, 2**scale // 2 :: 2**scale, 2**scale // 2 :: 2**scale]
            for scale in range(1, self.supervised_scales)
        ]
        return [images, *coarse], corner

    @nn.nowrap
    def check_fields(self) -> None:
        scales = len(self.dims)
        if len(self.block_sizes) != scales + 1 or len(self.grid_sizes) != scales + 1:
            raise UserError(
                f"block_sizes={self.block_sizes} and grid_sizes={self.grid_sizes}: expected one "
                f"for each of dims={self.dims} and one for the bottlenecks"
            )
        if not 1 <= self.supervised_scales <= scales or self.stages < 1:
            raise UserError(
                f"supervised_scales={self.supervised_scales} and stages={self.stages}: expected 1 "
                f"to {scales} scales and one stage at least"
            )

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return tuple(Feature(f"up{scale}", 2**scale, dim) for scale, dim in enumerate(self.dims))


def cut(x: Float[Array, "B _ _ C"], corner: tuple[int, int], sides: tuple[int, int], scale: int):
    """Of a map of a continued image what is of the image."""
    rows, columns = (slice(n >> scale, (n >> scale) + (m >> scale)) for n, m in zip(corner, sides))
    return x[:, rows, columns]


def _variant(params: int, dim: int, stages: int) -> Variant:
    config = {"dims": (dim, 2 * dim, 4 * dim), "stages": stages}
    return Variant(params, (256, 256, 3), "maxim", config)


VARIANTS = {
    "maxim_s1": _variant(6_139_561, 32, 1),
    "maxim_s2": _variant(14_176_178, 32, 2),
    "maxim_s3": _variant(22_212_795, 32, 3),
    "maxim_m1": _variant(19_464_265, 64, 1),
    "maxim_m2": _variant(43_227_986, 64, 2),
    "maxim_m3": _variant(66_991_707, 64, 3),
}

register_family("maxim", Maxim, VARIANTS)
