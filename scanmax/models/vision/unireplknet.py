"""UniRepLKNet (Ding et al., 2024): few large kernels, between them many of 3 by 3.

Four stages of one residual branch each block: a depthwise convolution, which training gives
dilated branches, a channel gate, and an MLP whose hidden channels compete. What training keeps
apart, branches, batch norms and scales, `merge` folds into kernels and biases:

    >>> import scanmax
    >>> model = scanmax.create_model("unireplknet_a", num_classes=10)
    >>> model, variables = model.merge(variables)  # doctest: +SKIP
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import Block, Turn
from scanmax.models.layers import (
    BatchNorm,
    Dense,
    activation,
    constrain_last,
    partitioned,
    zeros_init,
)
from scanmax.models.mixers import with_defaults
from scanmax.models.mixers.conv.reparameterized import merge_dilated_branches
from scanmax.models.parts.merging import apply_rule, folded
from scanmax.models.registry import Variant, register_family
from scanmax.models.statistics import averaging
from scanmax.models.taps import tap
from scanmax.models.vision.pyramid import Pyramid

# Smaller kernels have no branches.
LEAST_BRANCHED = 7


class ResponseMlp(nn.Module):
    """Dense, activation, response norm over the map, Dense, batch norm.

    Attributes:
      hidden: width between.
      merged: the form after training: the batch norm and the response norm's bias are in the
        second layer.
      norm_momentum: weight of the old averages of the batch norm at each training step.
      frozen_statistics: the batch norm keeps its averages, in training too.
    """

    hidden: int
    activation: str = "gelu"
    use_bias: bool = True
    merged: bool = False
    dropout_rate: float = 0.0
    norm_momentum: float = 0.9
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = Dense(self.hidden, ("embed", "mlp"), use_bias=self.use_bias, name="fc1", **dtypes)(x)
        y = constrain_last(activation(self.activation)(y), "mlp")
        names = ("response_scale",) if self.merged else ("response_scale", "response_bias")
        init = partitioned(zeros_init, ("mlp",))
        vectors = (self.param(name, init, y.shape[-1:], self.param_dtype) for name in names)
        vectors = tuple(vector.astype(self.dtype) for vector in vectors)
        # The norm of a channel is over all places, whatever their rows are.
        y = ops.global_response_norm(y[:, :, None], *vectors)[:, :, 0]
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        out = Dense(x.shape[-1], ("mlp", "embed"), use_bias=self.merged, name="fc2", **dtypes)
        y = out(y)
        if not self.merged:
            momentum, frozen = self.norm_momentum, self.frozen_statistics
            norm = BatchNorm(momentum=momentum, frozen_statistics=frozen, name="norm", **dtypes)
            y = norm(y, train)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(y)


class LargeKernelBlock(Block):
    """x + scale * mlp(mixer(x)), the norms inside of both."""

    merged: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        state: None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        x = self.begin(x, grid, train)
        y = self.create_mixer(name="mixer")(x, grid=grid, train=train)
        y = self.gate_channels(y, grid, train)
        if self.has_mlp:
            y = self.apply_mlp(y, grid, train)
        return tap(self, "output", self.add_branch(x, y, "", drop_path_rate, train))

    @nn.nowrap
    def apply_mlp(self, x: Float[Array, "B T D"], grid, train: bool, name: str = "mlp"):
        return ResponseMlp(
            self.mlp_hidden,
            activation=self.activation,
            use_bias=self.use_bias,
            merged=self.merged,
            dropout_rate=self.dropout_rate,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            name=name,
            **self.dtypes,
        )(x, train)


class UniRepLKNet(Pyramid):
    """The pyramid of large kernels with dilated branches.

    Attributes:
      kernel_sizes: for each stage, the kernels that its layers have by turns; their number divides
        the stage's depth.
      mixer: a name of MIXERS, or one per stage; the field above is of "dilated_reparam".
      merged: the form after training, for which `merge` gives the model and its variables.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too: for fine-tuning.
      scan_layers: compile one turn per stage; parameters are stacked (blocks.stack_blocks).
    Others are those of `Pyramid`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("unireplknet_a", num_classes=10)
      >>> example = scanmax.model_info("unireplknet_a").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: unireplknet
    """

    dims: tuple[int, ...] = (40, 80, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (1, 1, 1, 1)
    mixer: str | tuple[str, ...] = "dilated_reparam"
    position_conv: int = 0
    layer_scale: float | None = 1e-6
    kernel_sizes: tuple[tuple[int, ...], ...] = ((3,), (13,), (13,), (13,))
    merged: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @property
    def block_type(self) -> type[nn.Module]:
        return Turn

    @nn.nowrap
    def pool(self, x: Float[Array, "B Y X C"], prefix: Float[Array, "B P C"], train: bool):
        return self.last_norm(jnp.mean(x, axis=(1, 2)))

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        """The fields of each turn of a stage."""
        if len(self.kernel_sizes) != len(self.dims):
            raise UserError(
                f"kernel_sizes={self.kernel_sizes} must name kernels for {len(self.dims)} stages"
            )
        sizes, depth = self.kernel_sizes[stage], self.depths[stage]
        if not sizes or depth % len(sizes):
            raise UserError(
                f"kernel_sizes={self.kernel_sizes}: {depth} layers are no multiple of the "
                f"{len(sizes)} kernels of stage {stage}"
            )
        fields, *_ = super().block_fields(stage)
        statistics = averaging(self)
        layers = []
        for size in sizes:
            own = {"kernel_size": size, "merged": self.merged, **statistics}
            if size < LEAST_BRANCHED:
                own["branches"] = ()
            options = with_defaults({"dilated_reparam": own}, self.mixer_options)
            layers.append({**fields, "mixer_options": options, "merged": self.merged, **statistics})
        turn = {"block": LargeKernelBlock, "layers": tuple(layers)}
        return [turn] * (depth // len(sizes))

    @nn.nowrap
    def merge(self, variables: Mapping[str, Any]) -> tuple["UniRepLKNet", dict[str, Any]]:
        """The model after training and its variables: the same outputs at the cost of few kernels.

        Branches and batch norms go into the kernels before them, the response norm's bias and the
        scale of the block into the layer between the two. Statistics of the batch are none left.

        Args:
          variables: "params" and "batch_stats" of this model, its layers scanned or not.

        Returns:
          (the model with `merged=True`, its variables, without logical axes).

        Raises:
          UserError: when this model is merged.
        """
        if self.merged:
            raise UserError("merge: this model is merged already")
        if "dilated_reparam" in (self.mixer if isinstance(self.mixer, tuple) else (self.mixer,)):
            variables = merge_dilated_branches(variables)
        variables, _ = apply_rule(variables, _merged_block)
        return self.clone(merged=True, layer_scale=None), variables


def _merged_block(params, statistics):
    """(parameters, statistics) of a block whose MLP has its batch norm and the scale inside."""
    if "response_bias" not in params.get("mlp", {}):
        return None
    mlp = params["mlp"]
    kernel, bias = folded(mlp["fc2"]["kernel"], mlp["norm"], statistics["mlp"]["norm"])
    bias = bias + jnp.matmul(mlp["response_bias"], kernel, precision=jax.lax.Precision.HIGHEST)
    if "layer_scale" in params:
        scale = params["layer_scale"]["scale"]
        kernel, bias = kernel * scale[None], bias * scale
    mlp = {
        "fc1": mlp["fc1"],
        "fc2": {"kernel": kernel, "bias": bias},
        "response_scale": mlp["response_scale"],
    }
    kept = {name: value for name, value in params.items() if name != "layer_scale"}
    rest = {name: value for name, value in statistics.items() if name != "mlp"}
    return {**kept, "mlp": mlp}, rest


def _variant(
    params: int, dim: int, depth: int, turns: tuple[int, ...] = (13,), size: int = 224
) -> Variant:
    # A, F, P and N have two layers in each stage but the third, the others three.
    others = 2 if turns == (13,) else 3
    config = {
        "dims": tuple(dim * 2**stage for stage in range(4)),
        "depths": (others, others, depth, others),
        "kernel_sizes": ((3,), (13,), turns, (13,)),
    }
    return Variant(params, (size, size, 3), "unireplknet", config)


VARIANTS = {
    "unireplknet_a": _variant(4_649_060, 40, 6),
    "unireplknet_f": _variant(6_489_328, 48, 6),
    "unireplknet_p": _variant(11_080_520, 64, 6),
    "unireplknet_n": _variant(18_818_880, 80, 8),
    "unireplknet_t": _variant(31_693_420, 80, 18, (13, 3)),
    "unireplknet_s": _variant(56_456_704, 96, 27, (13, 3, 3)),
    # Of ImageNet-22k, and published for ImageNet-1k at this size.
    "unireplknet_b": _variant(99_089_416, 128, 27, (13, 3, 3), 384),
    "unireplknet_l": _variant(220_076_056, 192, 27, (13, 3, 3), 384),
    "unireplknet_xl": _variant(388_690_984, 256, 27, (13, 3, 3), 384),
}

register_family("unireplknet", UniRepLKNet, VARIANTS)
