"""Norms of maps by name: of the batch, of image and batch in halves, and those that bend too."""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError, suggest
from scanmax.models.layers import (
    BatchNorm,
    Initializer,
    activation,
    ones_init,
    partitioned,
    zeros_init,
)
from scanmax.models.statistics import running_statistics
from scanmax.ops.contract import spread


class InstanceBatchNorm(nn.Module):
    """Some channels of each image by their own mean and variance, the others by the batch's.

    The first channels are the image's. Parameters of the two are apart then, as in the authors'
    files: "instance_scale" and "instance_bias", "scale" and "bias". With groups the two take turns,
    the batch's first, and share "scale" and "bias".

    Attributes:
      share: of the channels that the image itself normalises; 1 is instance norm.
      groups: of channels that take turns, in the place of a share; where they do not divide the
        channels, the most that divide both. 0 is none.
      momentum: weight of the old average at each training step.
      frozen_statistics: in training too the running averages normalise, and nothing moves them.
      batch_alone: there are no averages: in evaluation too the batch at hand normalises.
      affine: a scale and an offset follow; False leaves both out.

    Reference: ibn-net, hyperzzw-terminator
    """

    share: float = 0.5
    epsilon: float = 1e-5
    momentum: float = 0.9
    frozen_statistics: bool = False
    groups: int = 0
    batch_alone: bool = False
    affine: bool = True
    scale_init: Initializer = ones_init
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B ... C"], train: bool = False) -> Float[Array, "B ... C"]:
        channels = x.shape[-1]
        groups = math.gcd(self.groups, channels)
        if self.groups:
            rest = jnp.concatenate(jnp.split(x, groups, axis=-1)[::2], axis=-1)
            parts, turns = (("", channels),), {"groups": groups}
        else:
            alone = int(channels * self.share)
            rest = x[..., alone:]
            parts, turns = (("instance_", alone), ("", channels - alone)), {}
        scales, biases = [], []
        for prefix, width in parts:
            if width and self.affine:
                scales.append(_vector(self, f"{prefix}scale", self.scale_init, width))
                biases.append(_vector(self, f"{prefix}bias", zeros_init, width))
            elif width:
                scales.append(jnp.ones((width,), self.dtype))
                biases.append(jnp.zeros((width,), self.dtype))
        if rest.shape[-1]:
            mean, variance = batch_or_running_statistics(self, rest, train)
        else:
            mean = variance = jnp.zeros((0,), x.dtype)
        scale, bias = jnp.concatenate(scales), jnp.concatenate(biases)
        # Places of a sequence or a volume, as a map of one column.
        maps = x if x.ndim == 4 else jax.lax.collapse(x, 1, x.ndim - 1)[:, :, None]
        y = ops.instance_batch_norm(
            maps.astype(self.dtype), mean, variance, scale, bias, epsilon=self.epsilon, **turns
        )
        return y.reshape(x.shape)


def batch_or_running_statistics(
    module: Any, x: Float[Array, "... C"], train: bool
) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
    """Mean and variance of the batch at hand, or `running_statistics`, as `batch_alone` says."""
    if module.batch_alone:
        return ops.batch_statistics(x)
    return running_statistics(module, x, train)


class EvoNorm(nn.Module):
    """A norm and its bend in one, found by search; without the bend a scale and an offset alone.

    Attributes:
      kind: "b0", "b1", "b2", by the variance of the batch or its running average, or "s0", "s1",
        "s2", by groups of channels of an image.
      bends: False in the place of a batch norm without an activation behind it, as the authors'.
      groups: of the "s" layers; where they do not divide the channels, the most that divide both.
      momentum: weight of the old average at each training step.
      frozen_statistics: in training too the running average normalises, and nothing moves it.

    Reference: evonorm
    """

    kind: str = "s0"
    bends: bool = True
    groups: int = 32
    epsilon: float = 1e-5
    momentum: float = 0.9
    frozen_statistics: bool = False
    scale_init: Initializer = ones_init
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool = False) -> Float[Array, "B Y X C"]:
        channels = x.shape[-1]
        scale = _vector(self, "scale", self.scale_init, channels)
        bias = _vector(self, "bias", zeros_init, channels)
        x = x.astype(self.dtype)
        if not self.bends:
            return x * spread(scale, x) + spread(bias, x)
        norm = getattr(ops, f"evonorm_{self.kind}")
        slope = {"v": _vector(self, "slope", ones_init, channels)} if self.kind[1] == "0" else {}
        if self.kind[0] == "s":
            fields = {"groups": math.gcd(self.groups, channels)}
        else:
            _, variance = running_statistics(self, x, train, mean=False)
            fields = {"variance": variance}
        return norm(x, **fields, **slope, scale=scale, bias=bias, epsilon=self.epsilon)


def _vector(module: Any, name: str, init: Initializer, width: int) -> Float[Array, "C"]:
    """A parameter of a module, one number a channel."""
    found = module.param(name, partitioned(init, ("conv_out",)), (width,), module.param_dtype)
    return found.astype(module.dtype)


# Name -> what makes the norm of its fields.
MAP_NORMS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "batch": BatchNorm,
        "instance_batch": InstanceBatchNorm,
        "instance": functools.partial(InstanceBatchNorm, share=1.0),
        "instance_batch_turns": functools.partial(InstanceBatchNorm, groups=12),
        **{
            f"evonorm_{kind}": functools.partial(EvoNorm, kind=kind)
            for kind in ("b0", "b1", "b2", "s0", "s1", "s2")
        },
    }
)


def norm_and_bend(
    x: Float[Array, "B ... C"],
    train: bool,
    *,
    kind: str = "batch",
    bend: str | None = "relu",
    **fields: Any,
) -> Float[Array, "B ... C"]:
    """The norm of a name and the activation behind it, inside a compact method.

    Args:
      x: the map.
      train: whether statistics are of the batch.
      kind: a name of MAP_NORMS.
      bend: a name of ACTIVATIONS; None is none. EvoNorms have their own in its place.
      **fields: scale_init, epsilon, momentum, frozen_statistics, affine and dtypes.

    Raises:
      UserError: no such norm, or one that cannot do without its scale.
    """
    if kind not in MAP_NORMS:
        raise UserError(f"unknown norm_layer {kind!r}; {suggest(kind, MAP_NORMS)}")
    has_own = kind.startswith("evonorm")
    own = {"bends": bend is not None} if has_own else {}
    if has_own and not fields.pop("affine", True):
        raise UserError(f"affine=False is of batch and instance norms, not of {kind!r}")
    x = MAP_NORMS[kind](name="norm", **own, **fields)(x, train)
    return x if bend is None or has_own else activation(bend)(x)
