"""How fast convolutions can be: operations a byte, the roofline of one, the waterline of many.

>>> layer = conv_cost((1, 56, 56, 64), 64, kernel_size=3, groups=64)  # depthwise, in half precision
>>> round(operational_intensity(layer), 1)
4.5
>>> waterline([layer], peak=100e12, bandwidth=1e12).bounds
('memory',)
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from scanmax.errors import UserError


class Cost(NamedTuple):
    """What one kernel computes, and moves to and from the memory: the least that it can.

    Attributes:
      name: of the layer.
      multiply_adds: of its products, two operations each.
      read: bytes of the maps that it reads.
      weights: bytes of its weights.
      written: bytes of the map that it writes.
    """

    name: str
    multiply_adds: int
    read: int
    weights: int
    written: int

    @property
    def bytes(self) -> int:
        """All that it moves."""
        return self.read + self.weights + self.written


class Waterline(NamedTuple):
    """Kernels one after the other on a device.

    Attributes:
      ridge: operations a byte from which on a kernel is bound by the arithmetic.
      intensities: of each kernel.
      bounds: "compute" or "memory", of each.
      seconds: of each, at least.
      total: their sum: what the kernels take at least.
      ideal: what the arithmetic alone would take.
      efficiency: ideal over total.
    """

    ridge: float
    intensities: tuple[float, ...]
    bounds: tuple[str, ...]
    seconds: tuple[float, ...]
    total: float
    ideal: float
    efficiency: float


def conv_cost(
    shape: tuple[int, int, int, int],
    features: int,
    *,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    itemsize: int = 2,
    name: str = "conv",
) -> Cost:
    """The cost of a convolution that keeps the size at stride 1.

        multiply_adds = B Yo Xo F k^2 C / groups

    Each input is read once, each output written once: what lies between kernels, and how well a
    cache holds it, is left out.

    Args:
      shape: [B, Y, X, C] of its input.
      features: F, of its output.
      kernel_size: k.
      stride: of the output's pixels.
      groups: of channels that meet; C of them make it depthwise.
      itemsize: bytes of a number.
      name: told with the cost.

    Returns:
      The cost.

    Raises:
      UserError: groups that do not divide the channels.

    Example:
      >>> conv_cost((1, 8, 8, 16), 16, kernel_size=3, groups=2).multiply_adds
      73728

    Reference: convfirst-block-fusion
    """
    batch, rows, columns, channels = shape
    if channels % groups or features % groups:
        raise UserError(f"groups={groups} do not divide {channels} and {features} channels")
    places = batch * -(-rows // stride) * -(-columns // stride)
    kernel = kernel_size**2 * (channels // groups) * features
    return Cost(
        name,
        places * kernel,
        itemsize * batch * rows * columns * channels,
        itemsize * kernel,
        itemsize * places * features,
    )


def fused(costs: Sequence[Cost], name: str = "block") -> Cost:
    """Kernels as one, which keeps what one hands to the next.

    It reads the first's input, which a residual sum at the end needs no second time, all weights,
    and writes the last's output. What neighbouring tiles compute twice is left out.

    Args:
      costs: of kernels, each of which reads what that before has written.
      name: told with the cost.

    Returns:
      The cost.

    Raises:
      UserError: no kernels, or one that reads something else than that before has written.

    Example:
      >>> pair = [conv_cost((1, 8, 8, 16), 64), conv_cost((1, 8, 8, 64), 16)]
      >>> fused(pair).bytes < sum(cost.bytes for cost in pair)
      True

    Reference: convfirst-block-fusion
    """
    if not costs:
        raise UserError("costs=[]: there is nothing to fuse")
    for before, after in itertools.pairwise(costs):
        if before.written != after.read:
            raise UserError(
                f"{after.name} reads {after.read} bytes, {before.name} before it writes "
                f"{before.written}"
            )
    return Cost(
        name,
        sum(cost.multiply_adds for cost in costs),
        costs[0].read,
        sum(cost.weights for cost in costs),
        costs[-1].written,
    )


def operational_intensity(cost: Cost) -> float:
    """Operations a byte: two for a multiply-add, over all bytes that are moved.

    Args:
      cost: of a kernel.

    Returns:
      The quotient.

    Example:
      >>> operational_intensity(Cost("sum", 100, 10, 10, 20))
      5.0

    Reference: convfirst-block-fusion
    """
    return 2 * cost.multiply_adds / cost.bytes


def waterline(costs: Sequence[Cost], *, peak: float, bandwidth: float) -> Waterline:
    """What a chain of kernels takes at least, each bound by arithmetic or by memory.

        t_i = max(operations_i / peak, bytes_i / bandwidth),    t = sum_i t_i

    The ridge, peak over bandwidth, is the line: kernels whose intensity lies under it wait for
    memory, and no other kernel of the chain makes up for them, as one roofline of all would say.

    Args:
      costs: of the kernels.
      peak: operations a second.
      bandwidth: bytes a second.

    Returns:
      The figures of each kernel and of all.

    Raises:
      UserError: no kernels, or a device that does nothing.

    Example:
      >>> waterline([Cost("a", 50, 5, 0, 5), Cost("b", 50, 50, 0, 50)], peak=1, bandwidth=1).bounds
      ('compute', 'compute')
      >>> waterline([Cost("a", 50, 5, 0, 5), Cost("b", 5, 50, 0, 50)], peak=1, bandwidth=1).seconds
      (100.0, 100.0)

    Reference: convfirst-block-fusion
    """
    if not costs or peak <= 0 or bandwidth <= 0:
        raise UserError(
            f"{len(costs)} costs, peak={peak} and bandwidth={bandwidth}: expected one cost at "
            "least and positive numbers"
        )
    intensities = tuple(operational_intensity(cost) for cost in costs)
    ridge = peak / bandwidth
    alone = tuple(2 * cost.multiply_adds / peak for cost in costs)
    seconds = tuple(max(time, cost.bytes / bandwidth) for time, cost in zip(alone, costs))
    return Waterline(
        ridge,
        intensities,
        tuple("compute" if value >= ridge else "memory" for value in intensities),
        seconds,
        sum(seconds),
        sum(alone),
        sum(alone) / sum(seconds),
    )
