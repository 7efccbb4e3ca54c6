"""What objectives that hold two views of an image against each other share."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.errors import UserError
from scanmax.models.layers import BatchNorm, Dense
from scanmax.train.objectives.base import Batch, Losses, Objective, check_no_labels


class Projector(nn.Module):
    """Dense layers with batch norm and relu between them; the last one is linear.

    Attributes:
      widths: of the layers.
      batch_norm: whether hidden layers are normalised, over the global batch.
    """

    widths: tuple[int, ...]
    batch_norm: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B D"], train: bool = False) -> Float[Array, "B P"]:
        init = nn.initializers.lecun_normal()
        for index, width in enumerate(self.widths):
            is_last = index == len(self.widths) - 1
            axes = ("mlp", "embed") if index % 2 else ("embed", "mlp")
            # A norm has its own shift; what follows the last layer ignores lengths.
            has_bias = not (self.batch_norm or is_last)
            dense = Dense(
                width, axes, use_bias=has_bias, kernel_init=init, dtype=x.dtype, name=f"fc{index}"
            )
            x = dense(x)
            if is_last:
                break
            if self.batch_norm:
                x = BatchNorm(dtype=x.dtype, name=f"norm{index}")(x, train=train)
            x = nn.relu(x)
        return x


class TwoViews(Objective):
    """Training batches of two views, [B, 2, Y, X, C]; the model gives pooled features.

    Held-out batches hold single images, of which it says nothing: evaluators do.
    """

    data_kind: ClassVar[str] = "image"
    metric_names: ClassVar[tuple[str, ...]] = ()
    views: ClassVar[int] = 2
    headless: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Nothing."""
        return {}

    def features(self, images: Float[Array, "B Y X C"], train: bool) -> Float[Array, "B D"]:
        """The model's pooled features.

        Raises:
          UserError: the model gives something else.
        """
        found = self.model(images, train=train)
        if isinstance(found, tuple) or found.ndim != 2:
            raise UserError(
                f"config.objective.name={self.config.name!r} reads pooled features [B, D]; "
                f"{type(self.model).__name__} gives others without its head"
            )
        return found

    def found(
        self,
        loss: Float[Array, " B"],
        features: Sequence[Float[Array, "B D"]],
        projected: Sequence[Float[Array, "B P"]],
        batch: Batch,
        **metrics: Array,
    ) -> Losses:
        """The losses, with the spread of the projections among the metrics.

        Args:
          loss: of each example.
          features: of each view.
          projected: of each view.
          batch: the batch.
          metrics: further ones.
        """
        spread = sum(direction_spread(z, batch.get("mask")) for z in projected) / len(projected)
        metrics["spread"] = jnp.broadcast_to(spread, loss.shape)
        return Losses({"views": self.config.weight * loss}, tuple(features), metrics)

    @nn.nowrap
    def check(self) -> None:
        """Refuses what it could not heed.

        Raises:
          UserError: terms, teachers, or a loss of classes.
        """
        field = f"config.objective.name={self.config.name!r}"
        if self.terms or self.teachers:
            raise UserError(
                f"{field} holds views against each other: it takes no terms or teachers"
            )
        check_no_labels(self.config)


def check_widths(name: str, option: str, widths: Any) -> None:
    """Refuses widths of a projector that are none.

    Raises:
      UserError: naming objective and option.
    """
    whole = isinstance(widths, tuple | list) and all(isinstance(width, int) for width in widths)
    if not whole or not widths or min(widths) < 1:
        raise UserError(
            f"config.objective.kwargs of {name!r}: {option}={widths!r} must be widths such as "
            "(256, 64)"
        )


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Vectors of length 1, in float32 or wider; a zero stays one, with a finite gradient."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def direction_spread(
    x: Float[Array, "B D"], mask: Bool[Array, " B"] | None = None
) -> Float[Array, ""]:
    """How far vectors are from collapse: the deviation of their directions over the batch.

        sqrt(D) mean_d std_b(x_bd / |x_b|)

    0 where all have one direction; 1 where directions fill the sphere.

    Args:
      x: one vector for each example.
      mask: which examples count; None is all.
    """
    x = unit(x)
    keep = jnp.ones(x.shape[0], bool) if mask is None else jnp.asarray(mask)
    weights = (keep / jnp.maximum(keep.sum(), 1)).astype(x.dtype)[:, None]
    mean = jnp.sum(weights * x, axis=0)
    variance = jnp.sum(weights * jnp.square(x - mean), axis=0)
    return jnp.sqrt(x.shape[-1]) * jnp.mean(jnp.sqrt(variance))
