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
      branches: (size, dilation) of the others; None takes those of BRANCHES.
      reduction: the gate's hidden layer has D / reduction channels; 0 leaves the gate out.
      merged: the form after training.
    """

    formula: ClassVar[str] = "y = SE(BN(sum_b BN_b(x * k_b))),  k_b dilated, merged in the end"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("unireplknet",)

    kernel_size: int = 13
    branches: tuple[tuple[int, int], ...] | None = None
    reduction: int = 4
    merged: bool = False

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
            if not self.merged:
                convolved = BatchNorm(name=f"{name}_norm", **self.dtypes)(convolved, train)
            y = y + convolved
        if not self.merged:
            y = BatchNorm(name="norm", **self.dtypes)(y, train)
        if not self.reduction:
            return y
        return SqueezeExcite(reduction=self.reduction, name="gate", **self.dtypes)(y, train)


def merge_dilated_branches(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a model whose `DilatedReparam` mixers have `merged=True`, from trained ones.

    Args:
      variables: "params" and "batch_stats" of the model, or of the mixer; layers that are scanned
        are unstacked first (`blocks.unstack_blocks`).

    Returns:
      Both collections, in which a mixer has one kernel and one bias; the rest is as it was.

    Raises:
      UserError: when no mixer has branches.
    """
    variables = nn.meta.unbox(dict(variables))
    params, statistics = variables["params"], variables.get("batch_stats", {})
    found = []

    def merged(params, statistics):
        if "large_norm" in params:
            found.append(params)
            return _merged_mixer(params, statistics)
        pairs = {}
        for name, value in params.items():
            of = statistics.get(name, {})
            pairs[name] = merged(value, of) if isinstance(value, Mapping) else (value, of)
        kept = {name: of for name, (_, of) in pairs.items() if of}
        return {name: value for name, (value, _) in pairs.items()}, kept

    params, statistics = merged(params, statistics)
    if not found:
        raise UserError("the variables have no mixer with dilated branches to merge")
    rest = {name: value for name, value in variables.items() if name != "batch_stats"}
    return {**rest, "params": params, **({"batch_stats": statistics} if statistics else {})}


def _merged_mixer(params, statistics):
    """(parameters, statistics) of one mixer with its branches and norms folded into one kernel."""

    def folded(kernel, name):
        norm = (statistics[name]["mean"], statistics[name]["variance"])
        return ops.fold_batch_norm(kernel, *norm, params[name]["scale"], params[name]["bias"])

    names = ["large", *(name for name in params if re.fullmatch(r"branch_\d+_\d+", name))]
    kernels, biases = zip(*(folded(params[name]["kernel"], f"{name}_norm") for name in names))
    dilations = tuple(int(name.split("_")[-1]) for name in names[1:])
    kernel = ops.merge_dilated_kernels(kernels[0], kernels[1:], dilations=dilations)
    # The norm behind the sum: of the kernel, and of the bias as a kernel of one tap.
    kernel, offset = folded(kernel, "norm")
    bias, _ = folded(sum(biases).reshape(1, 1, 1, -1), "norm")
    used = {*names, *(f"{name}_norm" for name in names), "norm"}
    kept = {name: value for name, value in params.items() if name not in used}
    return {**kept, "large": {"kernel": kernel, "bias": bias.reshape(-1) + offset}}, {}
