"""SMPConv's block of large kernels, and what becomes of its branches and norms after training."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import BatchNorm, normal_init, partitioned, zeros_init
from scanmax.models.mixers.base import MapMixer
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.parts.kernels import MovingPoints, centred_coordinates
from scanmax.models.parts.merging import folded
from scanmax.ops.contract import spread


class PointReparam(MapMixer):
    """SMPConv's mixer: a large kernel of moving points beside a small one, between linear maps.

    y = W_2 relu(BN(u * k) + BN(u * s)), u = relu(W_1 x), k(o) = sum_i w_i max(0, 1 - |o - p_i| / r)
    and a batch norm behind each W too. Of the large kernel only what meets the map is made, so that
    it serves any size. The two branches and all norms are one kernel and biases where `merged`.

    Attributes:
      kernel_size: side of the large kernel, odd; 31, 29, 27 and 13 in the released stages.
      small_size: side of the small one, odd.
      points: of the large kernel; None takes a quarter of its taps, as released.
      merged: the form after training.
      norm_momentum: weight of the old averages of batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    formula: ClassVar[str] = (
        "y = W_2 relu(BN(u * k) + BN(u * s)),  u = relu(BN(W_1 x)),  k of moving points"
    )
    cost: ClassVar[str] = "T log T"
    papers: ClassVar[tuple[str, ...]] = ("smpconv",)

    kernel_size: int = 13
    small_size: int = 5
    points: int | None = None
    merged: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        for name in ("kernel_size", "small_size"):
            if getattr(self, name) % 2 == 0:
                raise UserError(f"{name}={getattr(self, name)}: these kernels have a middle; odd")
        dim = maps.shape[-1]
        y = self.conv_norm(dim, 1, "in_proj", activation="relu")(maps, train)
        y = self.one_kernel(y) if self.merged else self.branches(y, train)
        return self.conv_norm(dim, 1, "out_proj")(jax.nn.relu(y), train)

    @nn.nowrap
    def branches(self, y: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        """The kernel of points and the small one, as they are trained."""
        dim, size = y.shape[-1], self.kernel_size
        points = size**2 // 4 if self.points is None else self.points
        generator = MovingPoints(dim, points, min(1.0, 4 / size), name="points", **self.dtypes)
        kernel, _ = generator(centred_coordinates(y.shape[1:3], size)[0].astype(self.dtype))
        far = ops.fft_conv(y, kernel.astype(self.dtype), mode="bidirectional")
        norm = BatchNorm(name="points_norm", **self.statistics, **self.dtypes)
        small = self.conv_norm(dim, self.small_size, "small", groups=dim)
        return norm(far, train) + small(y, train)

    @nn.nowrap
    def one_kernel(self, y: Float[Array, "B Y X D"]) -> Float[Array, "B Y X D"]:
        """The kernel that both have become."""
        dim, size = y.shape[-1], self.kernel_size
        init = partitioned(normal_init, (None, None, "conv_out"), (-3, -2))
        kernel = self.param("large_kernel", init, (size, size, dim), self.param_dtype)
        init = partitioned(zeros_init, ("conv_out",))
        bias = self.param("large_bias", init, (dim,), self.param_dtype)
        # What lies further off meets nothing.
        cut = (max(size // 2 - side + 1, 0) for side in y.shape[1:3])
        rows, columns = (slice(rest, size - rest) for rest in cut)
        kernel = kernel[rows, columns].astype(self.dtype)
        y = ops.fft_conv(y, kernel, mode="bidirectional")
        return y + spread(bias.astype(self.dtype), y)

    @property
    def statistics(self) -> dict[str, Any]:
        """What batch norms do with their averages."""
        return {"momentum": self.norm_momentum, "frozen_statistics": self.frozen_statistics}

    @nn.nowrap
    def conv_norm(self, features: int, size: int, name: str, **fields: Any) -> ConvNorm:
        """A convolution that keeps the size and its batch norm, in one where merged."""
        fields = {"activation": None, **fields, **self.dtypes}
        return ConvNorm(
            features,
            size,
            use_bias=self.merged,
            use_norm=not self.merged,
            norm_momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            kernel_init=normal_init,
            name=name,
            **fields,
        )


def merged_points(
    params: Mapping[str, Any], statistics: Mapping[str, Any], size: int
) -> tuple[dict, dict] | None:
    """A rule for `merging.apply_rule`: a `PointReparam` of that kernel_size with one kernel."""
    if "points_norm" not in params:
        return None
    points, small = params["points"], params["small"]
    dtype = points["weights"].dtype
    coordinates = jnp.asarray(centred_coordinates((size, size), size)[0], dtype)
    radius = jnp.clip(points["radius"], 1e-3, 1.0)
    kernel = ops.point_kernel(coordinates, points["positions"], radius, points["weights"])
    # Filters count from the pixel that they weigh, convolutions of layers from the one they make.
    kernel = jnp.flip(kernel, (0, 1))[:, :, None]
    kernel, bias = folded(kernel, params["points_norm"], statistics["points_norm"])
    near, offset = folded(small["conv"]["kernel"], small["norm"], statistics["small"]["norm"])
    kernel = ops.merge_dilated_kernels(kernel, (near,), dilations=(1,))
    used = ("points", "points_norm", "small")
    kept = {name: value for name, value in params.items() if name not in used}
    rest = {name: value for name, value in statistics.items() if name not in used}
    own = {"large_kernel": jnp.flip(kernel[:, :, 0], (0, 1)), "large_bias": bias + offset}
    return {**kept, **own}, rest
