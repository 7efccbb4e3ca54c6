"""CCNN (Knigge et al., 2023): one network for sequences and images, with kernels of coordinates.

A separable convolution, norm, GELU; blocks of norm, separable convolution, GELU, linear map, GELU,
added to their input; a norm, the mean of all places, a head. The kernels are MAGNets under a
Gaussian mask, of one coordinate on sequences and two on images, and nothing else differs between
the two. Widths, blocks and options (omega, of each task) are those of the authors' published
commands; counts are computed from their code; the paper says about 200K and 2M. Point clouds are
not built.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from scanmax.models.layers import Dense, DropPath, gelu
from scanmax.models.registry import Variant, register_family
from scanmax.models.sequence.continuous_net import ContinuousNet, KernelBlock, KernelConv, Norm
from scanmax.models.taps import tap


class CcnnBlock(KernelBlock):
    """x + gelu(linear(drop(gelu(conv(norm(x))))))."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *T C"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        state: None = None,
        grid: None = None,
        train: bool = False,
    ) -> Float[Array, "B *T F"]:
        y = Norm(self.norm, name="norm", **self.dtypes)(x, train)
        y = self.dropped(gelu(KernelConv(self.features, name="conv", **self.conv)(y)), train)
        axes, init = ("conv_in", "conv_out"), nn.initializers.he_normal()
        y = gelu(Dense(self.features, axes, kernel_init=init, name="linear", **self.dtypes)(y))
        x = self.shortcut(x) + DropPath()(y, drop_path_rate, train)
        x = tap(self, "output", x)
        return x


class Ccnn(ContinuousNet):
    """The general network, on images or on their pixels in a row."""

    block = CcnnBlock
    separable = True

    @nn.nowrap
    def stem(self, x: Array, train: bool) -> Array:
        return self.stem_of(self.dims[0], gelu, x, train)

    @nn.nowrap
    def final(self, x: Array, train: bool) -> Array:
        return Norm(self.norm, name="norm", **self.dtypes)(x, train)


def _variant(params: int, depth: int, dim: int, hidden: int, omega: float, size, **fields):
    options = {"omega": omega, "init": "ccnn", "hidden": hidden}
    kernel = {
        "generator": "magnet",
        "generator_options": options,
        "mask": True,
        "mask_options": {"learn_mean": False},
    }
    return Variant(params, size, "ccnn-nd", {"dims": (dim,) * depth, "kernel": kernel, **fields})


_SEQUENCE = {"sequential": True, "is_causal": True}
_MNIST, _CIFAR = (28, 28, 1), (32, 32, 3)
VARIANTS = {
    "ccnn_4_140": _variant(201_042, 4, 140, 32, 4231.568793085858, _CIFAR, kernel_size=33),
    "ccnn_6_380": _variant(1_999_366, 6, 380, 64, 976.781, _CIFAR, kernel_size=33),
    "ccnn_4_140_smnist": _variant(198_769, 4, 140, 32, 2976.4910261630357, _MNIST, **_SEQUENCE),
    "ccnn_6_380_smnist": _variant(1_993_091, 6, 380, 64, 2976.4910261630357, _MNIST, **_SEQUENCE),
}

register_family("ccnn", Ccnn, VARIANTS)
