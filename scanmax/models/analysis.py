"""Multiply-adds and module tables of a model, from its shapes alone: nothing is computed."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def count_multiply_adds(
    model: nn.Module, example: jax.ShapeDtypeStruct, **beside: jax.ShapeDtypeStruct
) -> int:
    """Multiply-adds of one evaluation, which papers call FLOPs.

    Counted are matrix products, convolutions, attention as its two products over all T x S pairs,
    and scans as their recurrence (write and read of the state at each token), whatever form or
    lowering runs. Norms, activations and other elementwise work are not.

    Args:
      model: the module.
      example: shape and dtype of the input.
      beside: those of what the model reads by keyword.

    Returns:
      The number of multiply-adds for that batch.

    Example:
      >>> import scanmax
      >>> info = scanmax.model_info("deit_small_patch16_224")
      >>> round(count_multiply_adds(scanmax.create_model(info.name), info.example()) / 1e9, 1)
      4.6
    """
    variables = jax.eval_shape(model.init, jax.random.key(0), example)
    return multiply_adds_of(jax.make_jaxpr(model.apply)(variables, example, **beside).jaxpr)


def default_multiply_adds(name: str) -> int:
    """Multiply-adds of a registered model for one default input, from the kept table if it can."""
    from scanmax.models.multiply_adds import MULTIPLY_ADDS

    return MULTIPLY_ADDS[name] if name in MULTIPLY_ADDS else traced_multiply_adds(name)


def traced_multiply_adds(name: str) -> int:
    """Multiply-adds of a registered model for one default input, counted anew."""
    from scanmax.models.registry import create_model, model_info

    return count_multiply_adds(soonest_traced(create_model(name)), model_info(name).example())


def soonest_traced(model: nn.Module) -> nn.Module:
    """The same model, its equal blocks scanned where it can: they are traced once."""
    # A host of several kinds refuses, but for one of stages, each of a kind.
    alike = isinstance(getattr(model, "mixer", ""), str) or hasattr(model, "depths")
    scans = hasattr(model, "scan_layers") and alike
    return model.clone(scan_layers=True) if scans else model


def module_table(model: nn.Module, example: jax.ShapeDtypeStruct, depth: int | None = 1) -> str:
    """Flax's table of submodules with their output and parameter shapes."""
    options = {"width": 140, "force_terminal": False}
    # The table traces a closure over its inputs, which must hence be arrays.
    inputs = jnp.zeros(example.shape, example.dtype)
    return model.tabulate(jax.random.key(0), inputs, depth=depth, console_kwargs=options)


def multiply_adds_of(jaxpr: Any) -> int:
    """Multiply-adds of a traced program."""
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    shapes = [getattr(var.aval, "shape", ()) for var in equation.invars]
    if not any(shapes) or not equation.outvars:
        # A lifted scan leaves calls without arrays, of the pass in which it finds its constants.
        return 0
    name, params = equation.primitive.name, equation.params
    size = math.prod(equation.outvars[0].aval.shape)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return size * math.prod(shapes[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        numbers = params["dimension_numbers"].rhs_spec
        return size * math.prod(shapes[1]) // shapes[1][numbers[0]]
    if name in ("jit", "pjit") and params["name"] in _OPS:
        return _OPS[params["name"]](shapes, size)
    if name == "cond":
        return max(multiply_adds_of(branch.jaxpr) for branch in params["branches"])
    repeats = params["length"] if name == "scan" else 1
    return repeats * sum(multiply_adds_of(inner) for inner in _inner_jaxprs(params))


def _inner_jaxprs(params: dict[str, Any]) -> list[Any]:
    found = [getattr(value, "jaxpr", value) for value in params.values()]
    return [value for value in found if hasattr(value, "eqns")]


# Ops that are counted by their equation: shapes of their arrays, size of their output.
_Shapes = list[tuple[int, ...]]
_OPS: dict[str, Callable[[_Shapes, int], int]] = {
    # Logits over K and values over V for each of [B, T, H] and each of S.
    "dot_product_attention": lambda shapes, size: (
        math.prod(shapes[0][:-1]) * shapes[1][-3] * (shapes[0][-1] + shapes[2][-1])
        # In the pass for a scan's constants a call has its mask alone.
        if len(shapes) > 2
        else 0
    ),
    "depthwise_conv2d": lambda shapes, size: size * math.prod(shapes[1][:2]),
    # The convolution of each image, and the mixing of its kernel: x, kernels, weights.
    "cond_conv2d": lambda shapes, size: (
        size * math.prod(shapes[1][1:4]) + math.prod(shapes[2]) * math.prod(shapes[1][1:])
    ),
    "causal_conv1d": lambda shapes, size: math.prod(shapes[0]) * shapes[1][0],
    # Each token writes and reads the K x V state of each head.
    "linear_attention": lambda shapes, size: 2 * math.prod(shapes[2]) * shapes[0][-1],
    # x [B, T, H, P], dt, A, B [B, T, G, N].
    "ssd": lambda shapes, size: 2 * math.prod(shapes[0]) * shapes[3][-1],
    # x [B, T, D], dt, A [D, N]: decay, input and output for each of N.
    "selective_scan": lambda shapes, size: 3 * math.prod(shapes[0]) * shapes[2][-1],
}
