"""A ViT as the sum of its paths: what each branch of each block adds to what the head reads.

    x_L = x_0 + sum_l MSA_l + FFN_l

Each of the 2 L branches feeds the later ones and the sum before the last norm. An ensemble weighs,
or leaves out, branches in that sum alone: later blocks read the stream as ever.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError
from scanmax.models.blocks import Block
from scanmax.models.layers import LayerScale
from scanmax.models.taps import tap


class Paths(NamedTuple):
    """What goes from block to block: the stream, the sum for the head, a block's two branches.

    Attributes:
      stream: [B, T, D].
      total: [B, T, D].
      branches: [2, B, T, D] as they enter the sum; None where nobody asks.
    """

    stream: Float[Array, "B T D"]
    total: Float[Array, "B T D"]
    branches: Float[Array, "2 B T D"] | None = None


class EnsembleBlock(Block):
    """A block whose branches enter the stream, and by themselves the sum that the head reads.

    Attributes:
      ensemble_scale: initial value of a scale for each channel of each branch in that sum; None
        leaves it out.
      entering: whether the mixer's branch and the MLP's enter the sum.

    Reference: vit-path-ensemble
    """

    ensemble_scale: float | None = None
    entering: tuple[bool, bool] = (True, True)

    @nn.compact
    def __call__(self, paths, drop_path_rate=None, state=None, grid=None, train: bool = False):
        if self.position_conv or self.residual_scale is not None or self.ln_placement == "post":
            raise UserError(
                "paths add up where blocks add their branches alone: no position_conv, no "
                "residual_scale, and ln_placement='pre' or 'sandwich'"
            )
        x, total, _ = paths
        mixed = self.create_mixer(name="mixer")(self.normed(x, 1, train), train=train, grid=grid)
        mixed = self.gate_channels(mixed, grid, train)
        mixed = nn.Dropout(self.dropout_rate, deterministic=not train)(mixed)
        branches = [self.as_added(mixed, 1, drop_path_rate, train).astype(x.dtype)]
        x = x + branches[0]
        if self.has_mlp:
            y = self.apply_mlp(self.normed(x, 2, train), grid, train)
            branches.append(self.as_added(y, 2, drop_path_rate, train).astype(x.dtype))
            x = x + branches[1]
        entered = [self.in_sum(branch, index) for index, branch in enumerate(branches)]
        total = tap(self, "ensemble", sum(entered, total))
        x = tap(self, "output", x)
        if paths.branches is None:
            return Paths(x, total)
        entered += [jnp.zeros_like(x)] * (2 - len(entered))
        return Paths(x, total, jnp.stack(entered))

    @nn.nowrap
    def in_sum(self, branch: Float[Array, "B T D"], index: int) -> Float[Array, "B T D"]:
        """A branch as it enters the sum."""
        if not self.entering[index]:
            return jnp.zeros_like(branch)
        if self.ensemble_scale is None:
            return branch
        name = f"ensemble_scale{index + 1}"
        return LayerScale(self.ensemble_scale, name=name, **self.dtypes)(branch).astype(
            branch.dtype
        )


def entering_paths(depth: int, pruned: Iterable[int]) -> list[tuple[bool, bool]]:
    """For each block, whether its two branches enter the sum.

    Args:
      depth: blocks.
      pruned: paths that do not; 2 l is the mixer of block l, 2 l + 1 its MLP.

    Raises:
      UserError: a number that is no path.
    """
    pruned = set(pruned)
    if unknown := sorted(pruned - set(range(2 * depth))):
        raise UserError(
            f"pruned_paths: {unknown} of {depth} blocks, whose paths are 0 to {2 * depth - 1}"
        )
    return [(2 * index not in pruned, 2 * index + 1 not in pruned) for index in range(depth)]


class Ablation(NamedTuple):
    """Accuracy of a model, and without each of its paths.

    Attributes:
      accuracy: of the whole sum.
      without: [2 L], of the sum without one path.
      norms: [2 L], the mean norm of what each path adds to a token that the head reads.
    """

    accuracy: Float[Array, ""]
    without: Float[Array, "P"]
    norms: Float[Array, "P"]


def path_ablation(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[tuple[Float[Array, "B Y X C"], Int[Array, "B"]]],
) -> Ablation:
    """What each path is worth: accuracy where it is left out of the sum that the head reads.

    Args:
      model: a ViT of this package with a head.
      variables: its own.
      batches: images and labels; a label below 0 does not count.

    Returns:
      The accuracies, and how much each path adds.

    Raises:
      UserError: no image counts.

    Example:
      >>> import scanmax
      >>> sizes = {"dim": 8, "depth": 2, "heads": 2, "img_size": 8, "patch_size": 4}
      >>> model = scanmax.create_model("vit_tiny_patch16_224", num_classes=3, **sizes)
      >>> images = jnp.ones((2, 8, 8, 3))
      >>> variables = model.init(jax.random.key(0), images)
      >>> path_ablation(model, variables, [(images, jnp.array([0, 1]))]).without.shape
      (4,)

    Reference: vit-path-ensemble
    """

    count = jax.jit(lambda images, labels: path_counts(model, variables, images, labels))
    total: Any = None
    for images, labels in batches:
        counts = jax.device_get(count(images, labels))
        total = counts if total is None else jax.tree.map(np.add, total, counts)
    if total is None or not total.images:
        raise UserError("path_ablation: no image has a label")
    return Ablation(*(part / total.images for part in total[1:]))


class Counts(NamedTuple):
    """Sums over a batch, of which an `Ablation` is the means.

    Attributes:
      images: how many count.
      right: how many the whole sum tells.
      without: [2 L], how many the sum without one path tells.
      norms: [2 L], norms of what each path adds to a token that the head reads.
    """

    images: Int[Array, ""]
    right: Int[Array, ""]
    without: Int[Array, "P"]
    norms: Float[Array, "P"]


def path_counts(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "B Y X C"],
    labels: Int[Array, "B"],
) -> Counts:
    """The sums of `path_ablation` over one batch; arguments as there."""
    paths = model.apply(variables, images, method="path_outputs")
    total, paths = jnp.sum(paths, axis=0), paths[1:]

    def right(left_out):
        logits = model.apply(variables, total - left_out, method="from_sum")
        return jnp.sum((jnp.argmax(logits, -1) == labels) & (labels >= 0))

    read = paths[:, :, 0] if model.pool == "token" else jnp.mean(paths, axis=2)
    norms = jnp.where((labels >= 0)[None], jnp.linalg.norm(read, axis=-1), 0)
    return Counts(
        jnp.sum(labels >= 0),
        right(jnp.zeros_like(total)),
        jax.lax.map(right, paths),
        jnp.sum(norms, axis=1),
    )
