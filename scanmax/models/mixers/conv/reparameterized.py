"""UniRepLKNet's large kernel with dilated branches, and what becomes of them after training."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import BatchNorm, Conv, fan_in_uniform
from scanmax.models.mixers.base import MapMixer
from scanmax.models.parts.channel_attention import SqueezeExcite
from scanmax.models.parts.merging import apply_rule, folded

# (size, dilation) of the branches beside a kernel of each size, as in the released code.
BRANCHES = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


class DilatedReparam(MapMixer):
    """UniRepLKNet's mixer: one large depthwise kernel beside dilated ones, and a channel gate.

    y = SE(BN(sum_b BN_b(x * k_b))), each branch behind a batch norm of its own. They are trained
    apart; `merge_dilated_branches` makes of them the one kernel and bias of `merged=True`, which
    gives the same outputs at the cost of the large kernel alone.

    Attributes:
      kernel_size: side of the large kernel.
      branches: (size, dilation) of the others; None takes those of BRANCHES. Without any the large
        kernel has no norm but that of the sum.
      sum_norm: whether a batch norm stands behind the sum too.
      reduction: the gate's hidden layer has D / reduction channels; 0 leaves the gate out.
      merged: the form after training.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    formula: ClassVar[str] = "y = SE(BN(sum_b BN_b(x * k_b))),  k_b dilated, merged in the end"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("unireplknet",)

    kernel_size: int = 13
    branches: tuple[tuple[int, int], ...] | None = None
    sum_norm: bool = True
    reduction: int = 4
    merged: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        branches = self.branches
        if branches is None:
            if self.kernel_size not in BRANCHES:
                raise UserError(
                    f"kernel_size={self.kernel_size} has no branches of its own; give branches=, "
                    f"or one of {', '.join(map(str, BRANCHES))}"
                )
            branches = BRANCHES[self.kernel_size]
        dim, sizes = maps.shape[-1], {"large": (self.kernel_size, 1)}
        if not self.merged:
            sizes |= {f"branch_{size}_{dilation}": (size, dilation) for size, dilation in branches}
        y = 0
        for name, (size, dilation) in sizes.items():
            convolved = Conv(
                dim,
                size,
                dilation=dilation,
                groups=dim,
                use_bias=self.merged,
                kernel_init=fan_in_uniform(),
                name=name,
                **self.dtypes,
            )(maps)
            if len(sizes) > 1:
                convolved = self.statistics_norm(f"{name}_norm")(convolved, train)
            y = y + convolved
        if self.sum_norm and not self.merged:
            y = self.statistics_norm("norm")(y, train)
        if not self.reduction:
            return y
        return SqueezeExcite(reduction=self.reduction, name="gate", **self.dtypes)(y, train)

    @nn.nowrap
    def statistics_norm(self, name: str) -> BatchNorm:
        """A batch norm."""
        momentum, frozen = self.norm_momentum, self.frozen_statistics
        return BatchNorm(momentum=momentum, frozen_statistics=frozen, name=name, **self.dtypes)


def merge_dilated_branches(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a model whose `DilatedReparam` mixers have `merged=True`, from trained ones.

    Args:
      variables: "params" and "batch_stats" of the mixer or of a model, its layers scanned or not.

    Returns:
      Both collections, in which a mixer has one kernel and one bias; the rest is as it was.

    Raises:
      UserError: when no mixer has branches.
    """
    variables, count = apply_rule(variables, _merged_mixer)
    if not count:
        raise UserError("the variables have no mixer with dilated branches to merge")
    return variables


def _merged_mixer(params, statistics):
    """(parameters, statistics) of one mixer with its branches and norms folded into one kernel."""
    if "large" not in params or not {"norm", "large_norm"} & set(params):
        return None

    def norm_of(name):
        return params[name], statistics[name]

    names = ["large", *(name for name in params if re.fullmatch(r"branch_\d+_\d+", name))]
    kernel, bias = params["large"]["kernel"], None
    if len(names) > 1:
        kernels, biases = zip(
            *(folded(params[name]["kernel"], *norm_of(f"{name}_norm")) for name in names)
        )
        dilations = tuple(int(name.split("_")[-1]) for name in names[1:])
        kernel = ops.merge_dilated_kernels(kernels[0], kernels[1:], dilations=dilations)
        bias = sum(biases)
    if "norm" in params:
        # The norm behind the sum: of the kernel, and of the bias as a kernel of one tap.
        kernel, offset = folded(kernel, *norm_of("norm"))
        bias = offset if bias is None else offset + folded(bias[None], *norm_of("norm"))[0][0]
    used = {*names, *(f"{name}_norm" for name in names), "norm"}
    kept = {name: value for name, value in params.items() if name not in used}
    return {**kept, "large": {"kernel": kernel, "bias": bias}}, {}
