"""FlexNet (Romero et al., 2022): residual networks whose kernels learn their size.

A convolution, seven residual blocks of two and a head: sixteen layers (called FlexNet-7 in the
public code, by its blocks, which widen by 1, 1.5 and 2). Every kernel is a MAGNet under a learned
Gaussian mask, every channel with every channel, 33 taps wide; widths and options are those of the
authors' published commands, and the count is computed from their code; the paper says 0.67M. The
commands of the sequence networks (FlexTCN) are not public: `sequential=True` builds one of these
blocks, of no published count.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from scanmax.models.layers import DropPath
from scanmax.models.registry import Variant, register_family
from scanmax.models.sequence.continuous_net import ContinuousNet, KernelBlock
from scanmax.models.taps import tap


class ResidualBlock(KernelBlock):
    """relu(norm(conv(drop(relu(norm(conv(x)))))) + shortcut(x))."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *T C"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        state: None = None,
        grid: None = None,
        train: bool = False,
    ) -> Float[Array, "B *T F"]:
        y = self.dropped(jax.nn.relu(self.convolved(x, "conv1", train)), train)
        y = self.convolved(y, "conv2", train)
        x = jax.nn.relu(self.shortcut(x) + DropPath()(y, drop_path_rate, train))
        x = tap(self, "output", x)
        return x


class FlexNet(ContinuousNet):
    """The image network of FlexConv.

    Attributes:
      stem_dim: channels of the first convolution.
    """

    block = ResidualBlock

    stem_dim: int = 24
    kernel_size: int | None = 33

    @nn.nowrap
    def stem(self, x: Array, train: bool) -> Array:
        return self.stem_of(self.stem_dim, jax.nn.relu, x, train)


def _variant(params: int, size: int, dim: int, blocks: tuple[int, ...], classes: int) -> Variant:
    widths = tuple(int(dim * f) for f, n in zip((1.0, 1.5, 2.0), blocks) for _ in range(n))
    options = {"omega": 25.6, "init": "flexconv", "output_scale": 1.0}
    kernel = {"generator": "magnet", "generator_options": options, "mask": True}
    config = {"stem_dim": dim, "dims": widths, "kernel": kernel, "num_classes": classes}
    return Variant(params, (size, size, 3), "flexconv", config)


VARIANTS = {
    "flexnet_16": _variant(671_650, 32, 24, (2, 3, 2), 10),
    "flexnet_12_imagenet32": _variant(498_596, 32, 22, (1, 2, 2), 1000),
}

register_family("flexnet", FlexNet, VARIANTS)
