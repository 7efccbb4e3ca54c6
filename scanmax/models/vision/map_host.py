"""What networks of images share that carry a map [B, Y, X, C] from the stem to the head."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import Dense
from scanmax.models.registry import Feature
from scanmax.models.taps import tap


class PlainHost(nn.Module):
    """A network whose `forward(images, train, as_maps)` gives logits, or the maps of `features`.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      dropout_rate: before the head.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
    """

    num_classes: int = 1000
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool | str = False

    def __call__(self, images: Float[Array, "B Yi Xi C"], train: bool = False):
        """Logits [B, classes], or pooled features [B, C] without a head."""
        return self.forward(images, train)

    def features(
        self, images: Float[Array, "B Yi Xi C"], train: bool = False
    ) -> tuple[Float[Array, "B Y X C"], ...]:
        """The maps that `feature_info` names."""
        return self.forward(images, train, as_maps=True)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def classify(self, x: Float[Array, "B C"], train: bool, **head: Any):
        """Logits of pooled features, or these without a head; `head` are fields of its layer."""
        x = tap(self, "pre_logits", x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        if not self.num_classes:
            return x
        axes = ("embed", "classes")
        return Dense(self.num_classes, axes, name="head", **head, **self.dtypes)(x)


class MapHost(PlainHost):
    """A `PlainHost` of residual blocks, many of them equal.

    Attributes:
      drop_path_rate: of the last block; earlier ones have less.
      scan_layers: compile one block for equal ones; parameters are stacked (blocks.stack_blocks).
    """

    drop_path_rate: float = 0.0
    scan_layers: bool = False


def check_size(images: Float[Array, "B Yi Xi C"], least: int) -> None:
    """Refuses images of which a network would leave no pixel."""
    if images.ndim != 4 or min(images.shape[1:3]) < least:
        raise ValueError(
            f"images have shape {images.shape}; expected [B, Y, X, C] of at least {least} pixels "
            "a side."
        )


def stage_features(patch_size: int, dims: tuple[int, ...]) -> tuple[Feature, ...]:
    """Name, stride and channels of one map a stage, each half as wide as that before."""
    return tuple(
        Feature(f"stage{stage}", patch_size * 2**stage, dim) for stage, dim in enumerate(dims)
    )


def quarter_blocks(depth: int) -> tuple[int, ...]:
    """The last block of each quarter of the depth."""
    return tuple(sorted({max(0, depth * part // 4 - 1) for part in (1, 2, 3, 4)}))


def quarter_features(depth: int, patch_size: int, dim: int) -> tuple[Feature, ...]:
    """Name, stride and channels of the maps behind each quarter of equal blocks."""
    return tuple(Feature(f"block_{index:02d}", patch_size, dim) for index in quarter_blocks(depth))
