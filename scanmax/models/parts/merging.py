"""What training keeps apart and inference does not: submodules replaced by what they become."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from scanmax import ops

# (parameters, statistics) of a module -> those of what it becomes, or None where it stays.
Rule = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[dict, dict] | None]


def apply_rule(variables: Mapping[str, Any], rule: Rule) -> tuple[dict[str, Any], int]:
    """Variables whose submodules are replaced, outermost first, wherever the rule has an answer.

    Args:
      variables: "params" and "batch_stats" of a model or module, and others, which stay. Scanned
        layers, stacked under `{prefix}blocks`, are told one by one.
      rule: told the parameters and the statistics of each submodule.

    Returns:
      (variables without logical axes, how many submodules were replaced).
    """
    variables = nn.meta.unbox(dict(variables))
    count = 0

    def replaced(params, statistics):
        nonlocal count
        found = rule(params, statistics)
        if found is not None:
            count += 1
            return found
        kept = {}
        # The averages of a norm lie beside parameters of other names.
        kept_statistics = {name: of for name, of in statistics.items() if name not in params}
        for name, value in params.items():
            of = statistics.get(name, {})
            if isinstance(value, Mapping):
                run = jax.vmap(replaced) if name.endswith("blocks") else replaced
                value, of = run(value, of)
            kept[name] = value
            if not isinstance(of, Mapping) or of:
                kept_statistics[name] = of
        return kept, kept_statistics

    params, statistics = replaced(variables["params"], variables.get("batch_stats", {}))
    rest = {name: value for name, value in variables.items() if name != "batch_stats"}
    return {**rest, "params": params, **({"batch_stats": statistics} if statistics else {})}, count


def folded(
    kernel: jax.Array, norm: Mapping[str, Any], statistics: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """(kernel, bias) of a convolution or linear map without bias, and the batch norm behind it."""
    shape = kernel.shape
    if kernel.ndim == 2:
        kernel = kernel[None, None]
    averages = (statistics["mean"], statistics["variance"])
    kernel, bias = ops.fold_batch_norm(kernel, *averages, norm["scale"], norm["bias"])
    return kernel.reshape(shape), bias


def merged_conv_norm(
    params: Mapping[str, Any], statistics: Mapping[str, Any]
) -> tuple[dict, dict] | None:
    """A rule: a `ConvNorm` of a batch norm becomes a convolution with a bias, in its place."""
    if set(params) != {"conv", "norm"} or set(params["conv"]) != {"kernel"}:
        return None
    kernel, bias = folded(params["conv"]["kernel"], params["norm"], statistics["norm"])
    return {"conv": {"kernel": kernel, "bias": bias}}, {}
