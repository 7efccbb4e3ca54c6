"""The weights of a Fourier layer, dense or in factors, and the product with them."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import partitioned
from scanmax.models.statistics import at_least_float32

FACTORIZATIONS = (None, "tucker", "cp")


def check_factorization(factorization: str | None) -> None:
    """Refuses what is not of FACTORIZATIONS."""
    if factorization not in FACTORIZATIONS:
        listed = ", ".join(map(repr, FACTORIZATIONS))
        raise UserError(f"factorization={factorization!r} is not one of {listed}")


def fourier_product(
    module: nn.Module,
    maps: Float[Array, "B Y X I"],
    sizes: Sequence[int],
    factorization: str | None,
    ranks: Sequence[int],
) -> Float[Array, "B Y X O"]:
    """The Fourier layer of a module, inside its compact method.

    Weights start as in the released code, where their real and imaginary parts have 1 / O as the
    sum of their variances, factors so that their product has it.

    Args:
      module: has the fields dtype and param_dtype; gets the parameters.
      maps: the input.
      sizes: M, N, I and O, of the dense weights.
      factorization: a name of FACTORIZATIONS.
      ranks: of the factors, one for each size; of CP the same. None are read of dense weights.
    """
    check_factorization(factorization)
    deviation = (2 / (sizes[-2] + sizes[-1])) ** 0.5
    if factorization is None:
        weight = _weight(module, "weights", sizes, (None, None, "embed", "mlp"), deviation)
        return ops.fourier_conv2d(maps, weight)
    names = ("row_kernel", "column_kernel", "input_kernel", "output_kernel")
    if factorization == "tucker":
        deviation = (deviation / math.sqrt(math.prod(ranks))) ** (1 / 5)
        first = _weight(module, "core_kernel", ranks, (None,) * 4, deviation)
        operator = ops.tucker_fourier_conv2d
    else:
        deviation = (deviation / math.sqrt(ranks[0])) ** (1 / 4)
        init = partitioned(_one, (None, None))
        first = module.param("scale", init, (ranks[0], 2), module.param_dtype)
        operator = ops.cp_fourier_conv2d
    axes = (None, None, "embed", "embed")
    factors = [
        _weight(module, name, (size, rank), (axis, None), deviation)
        for name, size, rank, axis in zip(names, sizes, ranks, axes)
    ]
    return operator(maps, first.astype(at_least_float32(module.dtype)), *factors)


def _weight(module: nn.Module, name: str, shape: Sequence[int], axes, deviation: float) -> Array:
    """Real and imaginary parts, whose squares add up to the deviation's."""
    inputs, outputs = ((-3,), (-2,)) if len(shape) > 1 else ((), ())
    init = nn.initializers.normal(deviation / math.sqrt(2))
    init = partitioned(init, (*axes, None), inputs=inputs, outputs=outputs)
    value = module.param(name, init, (*shape, 2), module.param_dtype)
    return value.astype(at_least_float32(module.dtype))


def _one(key, shape, dtype):
    """Complex ones, by their two parts."""
    return jnp.zeros(shape, dtype).at[..., 0].set(1)


def released_ranks(sizes: Sequence[int], factorization: str | None, share: float):
    """Ranks of factors as tensorly chooses them for a share of the dense weights.

    Tucker's are c times the sizes n, where c^4 prod(n) + c^2 sum(n^2) = share prod(n).

    >>> released_ranks((16, 9, 24, 24), "tucker", 0.1)
    (9, 5, 13, 13)
    """
    whole = math.prod(sizes)
    if factorization == "cp":
        return (max(1, round(whole * share / sum(sizes))),) * 4
    squares = sum(size**2 for size in sizes)
    c = math.sqrt((math.sqrt(squares**2 + 4 * share * whole**2) - squares) / (2 * whole))
    return tuple(max(1, round(c * size)) for size in sizes)
