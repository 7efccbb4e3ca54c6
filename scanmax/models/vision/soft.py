"""SOFT (Lu et al., 2021, 2024): softmax-free attention on three maps, then attention on the last.

Convolutions with batch norms shrink the map, and tables of positions stand in front of each stage.
Softmax-free blocks normalise their sums; the last stage is of pre-norm blocks with a class token.
Names are the release's; `soft_norm_*` have the normalised kernel of the second paper, SOFT++.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import Block, names_per_block
from scanmax.models.layers import DropPath, fan_in_uniform, normal_init, partitioned
from scanmax.models.mixers import with_defaults
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.parts.positions import learned_positions
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.pyramid import Pyramid


class DropEntries(nn.Module):
    """Dropout at a rate that may be traced, as those of scanned layers are."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B ..."], rate: float | Float[Array, ""] | None, train: bool = False
    ) -> Float[Array, "B ..."]:
        if not train or rate is None:
            return x
        keep = 1.0 - rate
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
        # At rate 1 nothing is kept, and nothing is divided by.
        scale = jnp.asarray(jnp.where(keep > 0, keep, 1.0), x.dtype)
        return jnp.where(kept, x / scale, jnp.zeros((), x.dtype))


class PostNormBlock(Block):
    """norm(x + mixer(x)), then norm(x + mlp(x)), as the first transformer had it.

    Attributes:
      post_norm: without it, `Block`.
      drops_entries: the rate of drop paths is that of each entry of a branch.
    """

    post_norm: bool = True
    drops_entries: bool = True

    @nn.nowrap
    def normed(self, x: Float[Array, "B T D"], index: int | str, train: bool):
        return x if self.post_norm else super().normed(x, index, train)

    @nn.nowrap
    def add_branch(self, x, branch: Float[Array, "B T D"], index: int | str, rate, train: bool):
        if not self.post_norm:
            return super().add_branch(x, branch, index, rate, train)
        drop = DropEntries if self.drops_entries else DropPath
        branch = drop()(branch, rate, train)
        return self.create_norm(index)(x + branch.astype(x.dtype))


class SoftVit(Pyramid):
    """The pyramid of softmax-free attention.

    Attributes:
      img_size: side of the images that the position tables fit, or (Y, X); at other sizes they are
        resampled.
      stem_dim: channels between the convolutions of the stem.
      mixer: a name of MIXERS, or one per stage; blocks of "soft" normalise their sums, others are
        pre-norm blocks.
      ratios: sides of the windows that landmarks are pooled from, one per stage.
      conv_sizes: sides of the kernels on values, one per stage.
      normalize: the normalised kernel of SOFT++. The three fields are of "soft".
      class_token: in front of the last stage, and read by the head; without it the map's mean is.
      drops_entries: blocks of "soft" drop entries of their branches, as released; else whole
        branches, as the others do.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("soft_tiny", num_classes=10)
      >>> example = scanmax.model_info("soft_tiny").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: soft-softmax-free
    """

    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (1, 2, 3, 2)
    heads: tuple[int, ...] = (2, 4, 10, 16)
    mixer: str | tuple[str, ...] = ("soft", "soft", "soft", "attention")
    position_conv: int = 0
    img_size: int | tuple[int, int] = 224
    stem_dim: int = 32
    ratios: tuple[int, ...] = (8, 4, 2, 1)
    conv_sizes: tuple[int, ...] = (9, 5, 3, 3)
    normalize: bool = False
    class_token: bool = True
    drops_entries: bool = True
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return PostNormBlock

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        if self.patch_size != 4:
            raise UserError(f"patch_size={self.patch_size}: the stem halves twice, 4")
        x = images
        for index, (dim, stride) in enumerate(
            ((self.stem_dim, 2), (self.stem_dim, 1), (self.dims[0], 2))
        ):
            x = self.conv_norm(x, dim, stride, f"stem{index}", train)
        return x

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        return self.conv_norm(x, self.dims[stage], 2, f"downsample{stage}", train)

    @nn.nowrap
    def conv_norm(self, x, dim: int, stride: int, name: str, train: bool):
        """A convolution, its batch norm and a ReLU."""
        return ConvNorm(
            dim,
            stride=stride,
            use_bias=True,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            kernel_init=fan_in_uniform(),
            name=name,
            **self.dtypes,
        )(x, train)

    @nn.nowrap
    def position_grid(self, path: str) -> tuple[int, int]:
        """The grid of the position table at that path."""
        size, stage = self.img_size, int(path[-1])
        sides = (size, size) if isinstance(size, int) else size
        # Convolutions round up when they halve.
        rows, columns = (-(-side // (self.patch_size << stage)) for side in sides)
        return rows, columns

    @nn.nowrap
    def prefix_tokens(self, stage: int) -> int:
        """How many tokens stand before the pixels of a stage."""
        return int(self.class_token and stage == len(self.dims) - 1)

    @nn.nowrap
    def add_prefix(
        self, x: Float[Array, "B N D"], stage: int, grid: tuple[int, int]
    ) -> Float[Array, "B T D"]:
        prefix, (batch, _, dim) = self.prefix_tokens(stage), x.shape
        if prefix:
            init = partitioned(normal_init, (None, "embed"))
            token = self.param("cls_token", init, (1, dim), self.param_dtype).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token[None], (batch, 1, dim)), x], axis=1)
        name = f"pos_embed_{stage}"
        fitted = self.position_grid(name)
        table = learned_positions(
            self, dim, fitted, grid, prefix_tokens=prefix, name=name, method="linear"
        )
        return x + table.astype(x.dtype)[None]

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        if self.class_token:
            return self.last_norm(prefix)[:, 0]
        return super().pool(x, prefix, train)

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        stages = len(self.dims)
        if {len(self.ratios), len(self.conv_sizes)} != {stages}:
            raise UserError(
                f"ratios={self.ratios} and conv_sizes={self.conv_sizes}: expected {stages} entries "
                "each"
            )
        own = {
            "ratio": self.ratios[stage],
            "conv_size": self.conv_sizes[stage],
            "normalize": self.normalize,
        }
        extra = {
            "mixer_options": with_defaults({"soft": own}, self.mixer_options),
            "prefix_tokens": self.prefix_tokens(stage),
            "drops_entries": self.drops_entries,
            "post_norm": False,
        }
        if names_per_block(self.mixer, stages)[stage] == "soft":
            extra |= {"post_norm": True, "norm_epsilon": 1e-5, "activation": "gelu_tanh"}
        return [fields | extra for fields in super().block_fields(stage)]


def _variants() -> dict[str, Variant]:
    # Parameters, width and heads of the third stage, depths behind the first, which has one block.
    # The papers say 24 million of "small": with the released depths it has the 39 that are here.
    sizes = {
        "tiny": (13_069_056, 320, 10, (2, 3, 2)),
        "small": (38_858_462, 320, 10, (3, 20, 4)),
        "medium": (45_812_707, 288, 9, (3, 29, 5)),
        "large": (64_700_646, 320, 10, (3, 40, 5)),
        "huge": (87_108_273, 352, 11, (5, 49, 5)),
    }
    found = {}
    for name, (params, dim, heads, depths) in sizes.items():
        fields = {"dims": (64, 128, dim, 512), "heads": (2, 4, heads, 16), "depths": (1, *depths)}
        for kind, own in (("soft", {}), ("soft_norm", {"normalize": True})):
            variant = Variant(params, (224, 224, 3), "soft-softmax-free", fields | own)
            found[f"{kind}_{name}"] = variant
    return found


VARIANTS = _variants()

register_family("soft", SoftVit, VARIANTS)
