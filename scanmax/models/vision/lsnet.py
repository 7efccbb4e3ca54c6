"""LSNet (Wang et al., 2025): see large, focus small, in a pyramid that starts at strides of eight.

All norms are batch norms behind convolutions. Layers come by turns: a small depthwise convolution
and a gate of the channels, then LSNet's own convolution, whose kernels of few taps are seen from
afar; in the last stage attention. `merge` folds the norms into the convolutions:

    >>> import scanmax
    >>> model = scanmax.create_model("lsnet_t", num_classes=10)
    >>> model, variables = model.merge(variables)  # doctest: +SKIP
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import Block, Turn
from scanmax.models.layers import BatchNorm, Dense, Initializer, ones_init, partitioned, zeros_init
from scanmax.models.mixers import with_defaults
from scanmax.models.mixers.base import MapMixer
from scanmax.models.mixers.conv.reparameterized import merge_dilated_branches
from scanmax.models.parts.channel_attention import SqueezeExcite
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.parts.merging import apply_rule, folded, merged_conv_norm
from scanmax.models.registry import Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.taps import tap
from scanmax.models.vision.pyramid import Pyramid


def conv_norm(
    module: nn.Module,
    features: int,
    name: str,
    size: int = 1,
    *,
    activation: str | None = None,
    stride: int = 1,
    groups: int = 1,
    scale_init: Initializer = ones_init,
) -> ConvNorm:
    """A convolution and its norm by the fields of the module that it is of."""
    return ConvNorm(
        features,
        size,
        stride=stride,
        groups=groups,
        activation=activation,
        use_bias=module.merged,
        use_norm=not module.merged,
        norm_epsilon=1e-5,
        norm_momentum=module.norm_momentum,
        frozen_statistics=module.frozen_statistics,
        scale_init=scale_init,
        name=name,
        **module.dtypes,
    )


class LsAttention(MapMixer):
    """Attention of narrow queries and keys, a bias of each distance, norms behind its maps.

    Queries are convolved 3 by 3 first. Distances are taken along rows and columns, whatever their
    sign; a map of another size than the table's reads its middle or has it resampled.

    Attributes:
      key_dim: width of a head's queries and keys.
      table_grid: the map whose distances the table holds.
      merged: the form after training, where maps have their batch norms inside.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    key_dim: int = 16
    table_grid: tuple[int, int] = (4, 4)
    merged: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim, narrow = maps.shape[-1], self.heads * self.key_dim
        qkv = conv_norm(self, 2 * narrow + dim, "qkv")(maps, train)
        query, key, value = jnp.split(qkv, (narrow, 2 * narrow), axis=-1)
        query = conv_norm(self, narrow, "query_conv", 3, groups=narrow)(query, train)
        grid, sizes = maps.shape[1:3], (self.key_dim, self.key_dim, self.head_dim(dim))
        y = ops.dot_product_attention(
            *(
                x.reshape(x.shape[0], grid[0] * grid[1], self.heads, size)
                for x, size in zip((query, key, value), sizes)
            ),
            self.distance_bias(grid)[None],
        )
        y = nn.relu(y.reshape(maps.shape))
        return conv_norm(self, dim, "out", scale_init=zeros_init)(y, train)

    @nn.nowrap
    def distance_bias(self, grid: tuple[int, int]) -> Float[Array, "H T T"]:
        """The bias of each head, by the distances between two places."""
        axes = ("heads", None, None)
        shape = (self.heads, *self.table_grid)
        table = self.param("bias", partitioned(zeros_init, axes), shape, self.param_dtype)
        table = table.astype(self.dtype)
        for axis, side in enumerate(self.table_grid, 1):
            table = jnp.take(table, np.abs(np.arange(1 - side, side)), axis=axis)
        table = table.reshape(self.heads, -1).T
        return ops.relative_position_bias(table, grid, self.table_grid)


class NormedMlp(nn.Module):
    """Two maps of the pixels with a batch norm behind each, and an activation between them."""

    hidden: int
    activation: str = "relu"
    merged: bool = False
    dropout_rate: float = 0.0
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X D"], train: bool = False) -> Float[Array, "B Y X D"]:
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        y = conv_norm(self, self.hidden, "fc1", activation=self.activation)(x, train)
        y = conv_norm(self, x.shape[-1], "fc2", scale_init=zeros_init)(dropout(y), train)
        return dropout(y)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class LsBlock(Block):
    """x + mixer(x), gated by its channels or not, then that plus an MLP of it.

    Attributes:
      norm: "none", as the norms lie inside of both, or a norm in front of each, by its name.
      gate: whether the sum is squeezed and excited.
      table_grid: of LSNet's attention, which is then the mixer.
      key_dim: of it, too.
    """

    norm: str = "none"
    gate: bool = False
    table_grid: tuple[int, int] | None = None
    key_dim: int = 16
    merged: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def statistics(self) -> dict[str, Any]:
        """Fields of all that has batch norms."""
        return averaging(self, "merged")

    @nn.nowrap
    def normed(self, x: Float[Array, "B T D"], index: int | str, train: bool):
        return x if self.norm == "none" else super().normed(x, index, train)

    @nn.nowrap
    def create_mixer(self, **fields: Any) -> nn.Module:
        if self.table_grid is None:
            return super().create_mixer(**fields)
        own = {"key_dim": self.key_dim, "table_grid": self.table_grid}
        return LsAttention(self.heads, **own, **self.statistics, **self.dtypes, **fields)

    @nn.nowrap
    def add_branch(self, x, branch: Float[Array, "B T D"], index: int | str, rate, train: bool):
        x = super().add_branch(x, branch, index, rate, train)
        if self.gate and index == 1:
            gate = SqueezeExcite(reduction=4, name="gate", **self.dtypes)
            x = gate(x[:, :, None], train)[:, :, 0].astype(x.dtype)
        return x

    @nn.nowrap
    def apply_mlp(self, x: Float[Array, "B T D"], grid, train: bool, name: str = "mlp"):
        mlp = NormedMlp(
            self.mlp_hidden,
            self.activation,
            dropout_rate=self.dropout_rate,
            name=name,
            **self.statistics,
            **self.dtypes,
        )
        return mlp(x.reshape(x.shape[0], *grid, x.shape[-1]), train).reshape(x.shape)


class LSNet(Pyramid):
    """The pyramid whose layers see large and focus small, by turns.

    Attributes:
      img_size: side, or (Y, X), of the images whose last map the table of distances is for.
      patch_size: stride of the stem, a power of two.
      norm: "none", as the norms lie behind the convolutions; or one in front of each branch and of
        the pooling too, by its name.
      mixer: a name of MIXERS, or one per stage, of every second layer; the others are convolved 3
        by 3 and gated.
      attention_stages: stages where LSNet's attention has the mixer's place.
      key_dim: width of its queries and keys.
      distilled: a second head; training returns both heads' logits, evaluation their mean.
      merged: the form after training, for which `merge` gives the model and its variables.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      scan_layers: compile one turn per stage of an even number of layers; parameters are stacked
        (blocks.stack_blocks).
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("lsnet_t", num_classes=10)
      >>> example = scanmax.model_info("lsnet_t").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: lsnet
    """

    dims: tuple[int, ...] = (64, 128, 256, 384)
    depths: tuple[int, ...] = (0, 2, 8, 10)
    heads: tuple[int, ...] = (3, 3, 3, 4)
    mlp_ratio: float | tuple[float, ...] = 2.0
    mixer: str | tuple[str, ...] = "ls_conv"
    patch_size: int = 8
    position_conv: int = 0
    norm: str = "none"
    activation: str = "relu"
    img_size: int | tuple[int, int] = 224
    attention_stages: tuple[int, ...] = (3,)
    key_dim: int = 16
    distilled: bool = False
    merged: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return Turn

    @nn.nowrap
    def stem(self, images: Float[Array, "B Yi Xi C"], train: bool) -> Float[Array, "B Y X D"]:
        halvings, x = self.patch_size.bit_length() - 1, images
        if 2**halvings != self.patch_size:
            raise UserError(f"patch_size={self.patch_size} is not a power of two")
        # Half the width of the next, up to that of the first stage.
        for index in range(halvings):
            left = halvings - 1 - index
            act = "relu" if left else None
            dim = self.dims[0] // 2**left
            x = conv_norm(self, dim, f"stem{index}", 3, stride=2, activation=act)(x, train)
        return x

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        dim, name = x.shape[-1], f"downsample{stage}"
        x = conv_norm(self, dim, f"{name}_depthwise", 3, stride=2, groups=dim)(x, train)
        return conv_norm(self, self.dims[stage], name)(x, train)

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        if self.norm != "none":
            return super().pool(x, prefix, train)
        return jnp.mean(x, axis=(1, 2))

    @nn.nowrap
    def classify(self, x: Float[Array, "B C"], train: bool, **head: Any):
        x = tap(self, "pre_logits", x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        if not self.num_classes:
            return x
        logits = []
        for name in ("head", "head_dist") if self.distilled else ("head",):
            y = x
            if not self.merged:
                momentum, frozen = self.norm_momentum, self.frozen_statistics
                norm = {"momentum": momentum, "frozen_statistics": frozen, **self.dtypes}
                y = BatchNorm(name=f"{name}_norm", **norm)(y, train)
            axes = ("embed", "classes")
            logits.append(Dense(self.num_classes, axes, name=name, **head, **self.dtypes)(y))
        if not self.distilled:
            return logits[0]
        return tuple(logits) if train else (logits[0] + logits[1]) / 2

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        """The fields of each turn of a stage; of an odd number of layers each is its own turn."""
        depth, statistics = self.depths[stage], averaging(self, "merged")
        if not depth:
            return []
        fields, *_ = super().block_fields(stage)
        near = {"kernel_size": 3, "branches": ((1, 1),), "sum_norm": False, "reduction": 0}
        own = {"ls_conv": statistics, "dilated_reparam": {**near, **statistics}}
        options = with_defaults(own, self.mixer_options)
        fields |= {"mixer_options": options, "key_dim": self.key_dim, **statistics}
        size = self.img_size
        sides = (size, size) if isinstance(size, int) else size
        grid = tuple(-(-side // (self.patch_size * 2**stage)) for side in sides)
        kinds = (
            {**fields, "mixer": "dilated_reparam", "gate": True},
            {**fields, "table_grid": grid if stage in self.attention_stages else None},
        )
        length = 1 if depth % 2 else 2
        layers = [kinds[index % 2] for index in range(depth)]
        return [
            {"block": LsBlock, "layers": tuple(layers[index : index + length])}
            for index in range(0, depth, length)
        ]

    @nn.nowrap
    def merge(self, variables: Mapping[str, Any]) -> tuple["LSNet", dict[str, Any]]:
        """The model after training and its variables: the same outputs, with norms folded.

        Those behind convolutions go into them, the two kernels of a small convolution become one,
        and the heads take in the norms before them. That of LSNet's own convolution stays.

        Args:
          variables: "params" and "batch_stats" of this model, its layers scanned or not.

        Returns:
          (the model with `merged=True`, its variables, without logical axes).

        Raises:
          UserError: when this model is merged.
        """
        if self.merged:
            raise UserError("merge: this model is merged already")
        variables = merge_dilated_branches(variables)
        variables, _ = apply_rule(variables, merged_conv_norm)
        params, statistics = dict(variables["params"]), dict(variables["batch_stats"])
        for name in ("head", "head_dist"):
            if f"{name}_norm" in params:
                norm, averages = params.pop(f"{name}_norm"), statistics.pop(f"{name}_norm")
                params[name] = _merged_head(params[name], norm, averages)
        return self.clone(merged=True), {**variables, "params": params, "batch_stats": statistics}


def _merged_head(head, norm, averages):
    """Parameters of a head with the norm before it inside."""
    scale, offset = folded(jnp.ones_like(norm["scale"])[None], norm, averages)
    bias = jnp.einsum("c,co->o", offset, head["kernel"], precision=jax.lax.Precision.HIGHEST)
    return {"kernel": scale.T * head["kernel"], "bias": head["bias"] + bias}


def _variant(params: int, dims: tuple[int, ...], depths: tuple[int, ...], **fields: Any) -> Variant:
    config = {"dims": dims, "depths": depths, **fields}
    return Variant(params, (224, 224, 3), "lsnet", config)


_SIZES = {
    "lsnet_t": ((64, 128, 256, 384), (0, 2, 8, 10)),
    "lsnet_s": ((96, 192, 320, 448), (1, 2, 8, 10)),
    "lsnet_b": ((128, 256, 384, 512), (4, 6, 8, 10)),
}

VARIANTS = {
    "lsnet_t": _variant(11_409_832, *_SIZES["lsnet_t"]),
    "lsnet_s": _variant(16_146_304, *_SIZES["lsnet_s"]),
    "lsnet_b": _variant(23_313_608, *_SIZES["lsnet_b"]),
    "lsnet_t_distill": _variant(11_795_600, *_SIZES["lsnet_t"], distilled=True),
    "lsnet_s_distill": _variant(16_596_200, *_SIZES["lsnet_s"], distilled=True),
    "lsnet_b_distill": _variant(23_827_632, *_SIZES["lsnet_b"], distilled=True),
}

register_family("lsnet", LSNet, VARIANTS)
