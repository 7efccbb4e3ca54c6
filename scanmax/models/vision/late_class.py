"""What networks share whose class token joins late: patches mix alone, then it reads them.

The stem, the positions and both kinds of blocks are an architecture's own: it subclasses
`LateClassHost` and overrides them.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.blocks import Block, apply_blocks, names_per_block
from scanmax.models.layers import LayerNorm, constrain_last, normal_init, partitioned
from scanmax.models.registry import Feature
from scanmax.models.taps import tap
from scanmax.models.vision.map_host import MapHost, quarter_blocks, quarter_features


class LateClassHost(MapHost):
    """Stem, positions, `depth` blocks of patches, `class_depth` with the class token, a head.

    Attributes:
      num_classes: width of the head; 0 gives the normalised class token [B, D].
      depth: blocks that mix patches alone; `features` are theirs, one a quarter.
      class_depth: blocks behind them, with the class token in front of the patches.
      mixer: a name of MIXERS for the blocks of patches, or one per block.
      mixer_options: for any mixer's name, fields of its module.
      dropout_rate: before the head.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
      scan_layers: compile one block of each kind; parameters are stacked (blocks.stack_blocks).
    """

    patch_size: int = 16
    dim: int = 384
    depth: int = 12
    class_depth: int = 2
    heads: int = 8
    mlp_ratio: float = 4.0
    mixer: str | tuple[str, ...] = "attention"
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    activation: str = "gelu"
    norm_epsilon: float = 1e-6

    @nn.compact
    def forward(self, images, train, as_maps=False):
        x = constrain_last(self.stem(images, train))
        grid = x.shape[1:3]
        x = jax.lax.collapse(x, 1, 3)
        x = x + self.positions(grid).astype(x.dtype)[None]
        x = tap(self, "stem", x)
        rates = self.rates()
        options = {"train": train, "remat": self.remat, "scan_layers": self.scan_layers}
        x, kept, _ = apply_blocks(
            [
                {"mixer": mixer, **self.block_fields()}
                for mixer in names_per_block(self.mixer, self.depth)
            ],
            x,
            rates[: self.depth],
            grid=grid,
            block=self.block_type,
            keep=quarter_blocks(self.depth) if as_maps else (),
            **options,
        )
        if as_maps:
            return tuple(y.reshape(y.shape[0], *grid, self.dim) for y in kept)
        init = partitioned(normal_init, (None, "embed"))
        token = self.param("cls_token", init, (1, self.dim), self.param_dtype)
        token = jnp.broadcast_to(token.astype(x.dtype)[None], (x.shape[0], 1, self.dim))
        x, _, _ = apply_blocks(
            [self.class_block_fields()] * self.class_depth,
            jnp.concatenate([token, x], axis=1),
            rates[self.depth :],
            grid=grid,
            block=self.class_block_type,
            prefix="class_block",
            **options,
        )
        x = LayerNorm(self.norm_epsilon, name="norm", **self.dtypes)(x[:, 0])
        return self.classify(x, train)

    @property
    def block_type(self) -> type[nn.Module]:
        """Module of the blocks of patches."""
        return Block

    @property
    def class_block_type(self) -> type[nn.Module]:
        """Module of the blocks with the class token."""
        return Block

    @nn.nowrap
    def rates(self) -> tuple[float, ...]:
        """The drop path rate of each block, those with the class token last."""
        raise NotImplementedError

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        """The map of patches."""
        raise NotImplementedError

    @nn.nowrap
    def positions(self, grid: tuple[int, int]) -> Float[Array, "T D"]:
        """What is added to the patches of a grid."""
        raise NotImplementedError

    @nn.nowrap
    def block_fields(self) -> dict[str, Any]:
        """The fields of a block of patches, but for its mixer."""
        return {
            "heads": self.heads,
            "mlp_hidden": round(self.dim * self.mlp_ratio),
            "mixer_options": self.mixer_options,
            "norm_epsilon": self.norm_epsilon,
            "activation": self.activation,
            **self.dtypes,
        }

    @nn.nowrap
    def class_block_fields(self) -> dict[str, Any]:
        """The fields of a block with the class token."""
        raise NotImplementedError

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels of the maps of `features`."""
        return quarter_features(self.depth, self.patch_size, self.dim)
