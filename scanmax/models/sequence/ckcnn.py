"""CKCNN (Romero et al., 2021): sequences through convolutions as long as they are.

Two blocks of two causal convolutions, every channel with every channel, whose kernels are networks
of sines (`kernels.Siren`); a linear head reads the last step. Layers, order and widths are those of
the authors' public code and run commands, with which the counts agree (computed from that code);
the paper names them 98k and 1M parameters. What the code calls LayerNorm is one mean and variance
for a whole example, the future of a step included, and is built so.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from scanmax.models.layers import DropPath
from scanmax.models.registry import Variant, register_family
from scanmax.models.sequence.continuous_net import ContinuousNet, KernelBlock
from scanmax.models.taps import tap


class TcnBlock(KernelBlock):
    """relu(drop(relu(norm(conv(drop(relu(norm(conv(x)))))))) + shortcut(x))."""

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
        y = self.dropped(jax.nn.relu(self.convolved(y, "conv2", train)), train)
        x = jax.nn.relu(self.shortcut(x) + DropPath()(y, drop_path_rate, train))
        x = tap(self, "output", x)
        return x


class Ckcnn(ContinuousNet):
    """The sequence network of CKConv, on images read pixel by pixel."""

    block = TcnBlock

    sequential: bool = True
    is_causal: bool = True
    norm: str = "group"
    pool: str = "last"


def _variant(params: int, dim: int, omega: float) -> Variant:
    options = {"omega": omega, "init": "released", "output_scale": 1.0}
    config = {"dims": (dim, dim), "kernel": {"generator": "siren", "generator_options": options}}
    return Variant(params, (28, 28, 1), "ckconv", config)


VARIANTS = {
    "ckcnn_98k": _variant(98_286, 30, 31.09195739463897),
    "ckcnn_1m": _variant(1_030_546, 100, 30.5),
}

register_family("ckcnn", Ckcnn, VARIANTS)
