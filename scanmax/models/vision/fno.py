"""Fourier neural operators on fields in the plane: FNO, TFNO in factors, and MG-TFNO by patches.

A field and its coordinates are lifted to `dim` channels, pass Fourier layers each with a linear map
and an MLP over channels beside them, and are projected to what is asked for. Weights belong to
frequencies, not to pixels, so that a network serves fields of any resolution. In factors a layer's
weights are a share of the dense ones. With `levels` the field is cut into patches, each put behind
crops of the whole field around it, ever wider and ever coarser, and what the network says of the
patches is stitched.

Sizes are those of the released configurations, in whose words a mode along X is counted with its
negative; of the last the release says that it wants factors. `tfno2d_*` are the same in Tucker's
factors of a tenth of the numbers, the release's default.

    >>> import scanmax
    >>> scanmax.model_info("tfno2d_small").params < scanmax.model_info("fno2d_small").params / 5
    True

Reference: mg-tfno
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError, suggest
from scanmax.models.blocks import rematerialised
from scanmax.models.layers import (
    Dense,
    constrain_last,
    fan_in_uniform,
    gelu,
    ones_init,
    partitioned,
)
from scanmax.models.parts.fourier import fourier_product, released_ranks
from scanmax.models.parts.group_norm import GroupNorm
from scanmax.models.parts.map_norms import InstanceBatchNorm
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import check_size
from scanmax.ops.contract import spread

NORMS = ("group", "instance")


class ChannelMlp(nn.Module):
    """Two linear maps over channels with a gelu between."""

    hidden: int
    features: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X I"]) -> Float[Array, "B Y X O"]:
        fields = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        fields["kernel_init"] = fan_in_uniform()
        first, last = x.shape[-1], self.hidden
        x = Dense(
            self.hidden,
            ("embed", "mlp"),
            bias_init=fan_in_uniform(fan_in=first),
            name="fc1",
            **fields,
        )(x)
        return Dense(
            self.features,
            ("mlp", "embed"),
            bias_init=fan_in_uniform(fan_in=last),
            name="fc2",
            **fields,
        )(gelu(x))


class FnoBlock(nn.Module):
    """u = norm(F(x) + b) + W x, y = norm(mlp(gelu(u)) + g x), and a gelu behind both but the last.

    With `preactivation` the gelu and the first norm come before the layer, the second before the
    MLP.

    Attributes:
      modes, factorization, share: as in `Fno`.
      mlp_ratio: hidden channels of the MLP for one of the map.
      norm: a name of NORMS, or None.
      bends: False of the last block.
    """

    modes: tuple[int, int]
    factorization: str | None = None
    share: float = 1.0
    mlp_ratio: float = 0.5
    norm: str | None = None
    preactivation: bool = False
    bends: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X D"], train: bool = False) -> Float[Array, "B Y X D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dim = x.shape[-1]
        if self.preactivation:
            x = self.normed(gelu(x), 1)
        skip = Dense(
            dim,
            ("embed", "embed"),
            use_bias=False,
            kernel_init=fan_in_uniform(),
            name="skip",
            **dtypes,
        )(x)
        axes = ("embed",)
        gate = self.param("gate", partitioned(ones_init, axes), (dim,), self.param_dtype)
        gated = x * spread(gate.astype(x.dtype), x)
        sizes = (self.modes[0], self.modes[1] // 2 + 1, dim, dim)
        ranks = released_ranks(sizes, self.factorization, self.share)
        y = fourier_product(self, x, sizes, self.factorization, ranks)
        init = partitioned(nn.initializers.normal(dim**-0.5), axes)
        offset = self.param("bias", init, (dim,), self.param_dtype)
        y = y + spread(offset.astype(y.dtype), y)
        if not self.preactivation:
            y = self.normed(y, 1)
        y = self.bent(y + skip)
        if self.preactivation:
            y = self.normed(y, 2)
        y = ChannelMlp(round(dim * self.mlp_ratio), dim, name="mlp", **dtypes)(y) + gated
        if not self.preactivation:
            y = self.bent(self.normed(y, 2))
        return constrain_last(y)

    @nn.nowrap
    def bent(self, x: Float[Array, "B Y X D"]) -> Float[Array, "B Y X D"]:
        return gelu(x) if self.bends else x

    @nn.nowrap
    def normed(self, x: Float[Array, "B Y X D"], place: int) -> Float[Array, "B Y X D"]:
        """The norm of that place, where there is one."""
        fields = {"name": f"norm{place}", "dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.norm is None:
            return x
        if self.norm not in NORMS:
            raise UserError(f"unknown norm {self.norm!r}; {suggest(self.norm, NORMS)}")
        if self.norm == "group":
            return GroupNorm(epsilon=1e-5, **fields)(x)
        return InstanceBatchNorm(share=1.0, affine=False, **fields)(x)


class Fno(nn.Module):
    """Lifting, Fourier blocks, projection: a field [B, Y, X, C] to another of `out_channels`.

    Attributes:
      out_channels: of what is predicted.
      dim: channels between lifting and projection.
      depth: blocks.
      modes: frequencies that a layer keeps along Y and along X, half of them negative.
      factorization: of the weights, None, "tucker" or "cp".
      share: of the dense weights, how many numbers the factors have.
      lifting_ratio, projection_ratio, mlp_ratio: hidden channels for one of `dim`.
      norm: "group" of all channels, "instance", or None.
      preactivation: blocks bend and norm what they read, the paper's order.
      has_positions: the two coordinates, from 0 on and below 1, are channels of the field.
      levels: L; 0 sees the field whole, others in 2^L by 2^L patches with L wider crops.
      overlap: what each patch sees of its neighbours, on every side, as a share of the field's.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
    """

    out_channels: int = 1
    dim: int = 24
    depth: int = 4
    modes: tuple[int, int] = (16, 16)
    factorization: str | None = None
    share: float = 1.0
    lifting_ratio: float = 2.0
    projection_ratio: float = 2.0
    mlp_ratio: float = 0.5
    norm: str | None = None
    preactivation: bool = False
    has_positions: bool = True
    levels: int = 0
    overlap: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool | str = False

    def __call__(
        self, images: Float[Array, "B Y X C"], train: bool = False
    ) -> Float[Array, "B Y X O"]:
        """The predicted field."""
        return self.forward(images, train)

    def features(
        self, images: Float[Array, "B Y X C"], train: bool = False
    ) -> tuple[Float[Array, "B Y X D"], ...]:
        """The maps that `feature_info` names."""
        return self.forward(images, train, as_maps=True)

    @nn.compact
    def forward(self, images, train, as_maps=False):
        check_size(images, 1)
        padding = tuple(round(side * self.overlap) for side in images.shape[1:3])
        x = images.astype(self.dtype)
        if self.levels:
            x = multigrid_patches(x, self.levels, padding)
        if self.has_positions:
            places = [jnp.arange(side, dtype=x.dtype) / side for side in x.shape[1:3]]
            grid = jnp.stack(jnp.meshgrid(*places, indexing="ij"), -1)[None]
            x = jnp.concatenate([x, jnp.broadcast_to(grid, (*x.shape[:-1], 2))], -1)
        x = self.mlp(self.lifting_ratio, self.dim, "lifting")(x)
        x, maps = tap(self, "stem", x), []
        block = rematerialised(FnoBlock, self.remat)
        for index in range(self.depth):
            x = block(
                modes=self.modes,
                factorization=self.factorization,
                share=self.share,
                mlp_ratio=self.mlp_ratio,
                norm=self.norm,
                preactivation=self.preactivation,
                bends=index < self.depth - 1,
                name=f"block_{index:02d}",
                **self.dtypes,
            )(x, train)
            maps.append(x)
        if as_maps:
            return tuple(self.whole(x, padding) for x in maps)
        x = tap(self, "pre_logits", x)
        return self.whole(self.mlp(self.projection_ratio, self.out_channels, "head")(x), padding)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def mlp(self, ratio: float, features: int, name: str) -> ChannelMlp:
        return ChannelMlp(int(ratio * self.dim), features, name=name, **self.dtypes)

    @nn.nowrap
    def whole(self, x: Float[Array, "P Y X D"], padding: tuple[int, int]) -> Array:
        """A map of the field, of one of its patches."""
        return stitched(x, self.levels, padding) if self.levels else x

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the map behind each block."""
        return tuple(Feature(f"block_{index:02d}", 1, self.dim) for index in range(self.depth))


def multigrid_patches(
    x: Float[Array, "B Y X C"], levels: int, padding: tuple[int, int] = (0, 0)
) -> Float[Array, "P y x D"]:
    """Patches of periodic fields, each before crops of the whole around it, as large in pixels.

    Of L levels there are 2^L by 2^L patches; the crop of level l has every 2^l-th pixel.

    Args:
      x: the fields, whose sides 4^L divides.
      levels: L.
      padding: pixels along Y and X that stand on either side of a patch.

    Returns:
      [B 2^L 2^L, Y / 2^L + 2 padding, X / 2^L + 2 padding, C (L + 1)], patches row by row.

    Raises:
      ValueError: sides that do not part so.
    """
    parts = 2**levels
    if any(side % parts**2 for side in x.shape[1:3]):
        raise ValueError(
            f"fields have shape {x.shape}; expected [B, Y, X, C] of sides that {parts**2} divides."
        )
    crops = []
    for level in range(levels + 1):
        coarse = x[:, :: 2**level, :: 2**level]
        for axis, pad in zip((1, 2), padding):
            side = x.shape[axis] // parts
            step = side // 2**level
            # The middle of a patch is that of its crop.
            first = jnp.arange(parts) * step - ((side - step + 1) // 2 + pad)
            places = first[:, None] + jnp.arange(side + 2 * pad)
            axis = 1 if axis == 1 else 3
            coarse = jnp.take(coarse, places % coarse.shape[axis], axis=axis)
        # [B, rows of patches, y, columns of patches, x, C]
        crops.append(jax.lax.collapse(coarse.swapaxes(2, 3), 0, 3))
    return jnp.concatenate(crops, -1)


def stitched(
    x: Float[Array, "P y x D"], levels: int, padding: tuple[int, int] = (0, 0)
) -> Float[Array, "B Y X D"]:
    """Fields of their patches, the way back from `multigrid_patches`, of as many channels."""
    parts = 2**levels
    rows, columns = (slice(pad, side - pad) for pad, side in zip(padding, x.shape[1:3]))
    x = x[:, rows, columns]
    _, height, width, channels = x.shape
    x = x.reshape(-1, parts, parts, height, width, channels).swapaxes(2, 3)
    return x.reshape(-1, parts * height, parts * width, channels)


def _variant(params: int, side: int, **fields: Any) -> Variant:
    return Variant(params, (side, side, 1), "mg-tfno", fields)


_TUCKER = {"factorization": "tucker", "share": 0.1}
_SMALL = {"dim": 24, "modes": (16, 16)}
_MEDIUM = {"dim": 64, "modes": (64, 64), "projection_ratio": 4.0}
_LARGE = {"dim": 128, "modes": (64, 64)}
_HUGE = {"dim": 128, "modes": (128, 128)}

VARIANTS = {
    "fno2d_small": _variant(671_113, 16, **_SMALL),
    "fno2d_medium": _variant(69_265_345, 64, **_MEDIUM),
    "fno2d_large": _variant(277_024_129, 64, **_LARGE),
    "fno2d_huge": _variant(1_090_719_105, 128, **_HUGE),
    "tfno2d_small": _variant(74_905, 16, **_SMALL, **_TUCKER),
    "tfno2d_medium": _variant(7_211_353, 64, **_MEDIUM, **_TUCKER),
    "tfno2d_large": _variant(28_737_817, 64, **_LARGE, **_TUCKER),
    "tfno2d_huge": _variant(110_921_897, 128, **_HUGE, **_TUCKER),
}

register_family("fno", Fno, VARIANTS)
