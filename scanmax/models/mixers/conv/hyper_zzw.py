"""The operators of the Terminator, global and local: maps times what a slow network makes."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import LayerNorm, gelu
from scanmax.models.mixers.base import MapMixer, Mixer
from scanmax.models.parts.hyper_kernels import LocalBranch
from scanmax.models.parts.kernels import SampledKernel


class HyperZzw(Mixer):
    """HyperZZW: y = out(norm(hyper_zzw(u, w, gelu(f)))), u and f linear in x, w a hyper-kernel.

    The hyper-kernel is a network of the pixel's place in [-1, 1]^2, sampled at the size of the map,
    whatever it is. A pixel reads its row and its column. One block of the released network joins
    ten branches, local ones among them, behind a standardisation over groups, images and batch:
    this is the global branch alone, normed over the channels of each token.

    Prefix tokens have no place: each reads the mean of all tokens, and every pixel adds theirs by
    a learned weight each. It is no matrix over tokens, as its weights depend on both factors.

    Attributes:
      generator: of the hyper-kernel, a name of kernels.KERNELS; "magnet" as released.
      generator_options: fields of its module.
      interaction: "matrix" as released or "elementwise", see `ops.hyper_zzw`.
      norm_epsilon: epsilon of the norm.
    """

    formula: ClassVar[str] = "y = W norm((u * w) f),  w a network of the place, a product of maps"
    cost: ClassVar[str] = "T sqrt(T)"
    papers: ClassVar[tuple[str, ...]] = ("hyperzzw-terminator",)

    generator: str = "magnet"
    generator_options: Any = None
    interaction: str = "matrix"
    norm_epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError("HyperZzw has no causal form: it is made of whole maps.")
        batch, _, dim = x.shape
        grid, prefix = self.grid_or_line(x, grid), self.prefix_tokens
        both = self.dense(2 * dim, ("embed", "mlp"), "in_proj")(x)
        places = np.meshgrid(*(np.linspace(-1, 1, side) for side in grid), indexing="ij")
        kernel = SampledKernel(
            dim,
            generator=self.generator,
            generator_options=self.generator_options,
            name="kernel",
            **self.dtypes,
        )(np.stack(places, -1), grid)
        slow, fast = jnp.split(both[:, prefix:].reshape(batch, *grid, 2 * dim), 2, axis=-1)
        y = ops.hyper_zzw(slow, kernel, gelu(fast), interaction=self.interaction)
        y = jax.lax.collapse(y, 1, 3)
        y = self.beside_prefix(both[..., :dim], y)
        y = LayerNorm(self.norm_epsilon, axis="embed", name="norm", **self.dtypes)(y)
        return self.dense(dim, ("mlp", "embed"), "out_proj")(y)

    @property
    def dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class HyperZzwLocal(MapMixer):
    """HyperZZW's local operator: u convolved by a small kernel that a slow network makes under f.

    u and f are linear in x. The kernel is a network of the tap's place whose context is f, averaged
    to the size of the kernel and over the batch, a running average in evaluation; a linear map of
    the channels, a batch norm and gelu follow, as in a local branch of the Terminator.

    Attributes:
      kernel_size: side of the kernel, odd; 3, 9, 5 and 7 in the Terminator.
      generator_options: fields of the `HyperKernel`: hidden, layers, omega.
      batch_alone: in evaluation too the batch at hand conditions and norms, as released.
      norm_momentum: weight of the old averages at each training step.
      frozen_statistics: averages stay as they are and are read in training too.
    """

    formula: ClassVar[str] = "y = W gelu(BN(V (u * k))),  k a network of the tap's place under f"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("hyperzzw-terminator",)

    kernel_size: int = 5
    generator_options: Any = None
    batch_alone: bool = False
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim = maps.shape[-1]
        both = self.dense(2 * dim, ("embed", "mlp"), "in_proj")(maps)
        branch = LocalBranch(
            self.kernel_size,
            {"hidden": 32, **(self.generator_options or {})},
            momentum=self.norm_momentum,
            frozen_statistics=self.frozen_statistics,
            batch_alone=self.batch_alone,
            name="local",
            **self.dtypes,
        )
        y = branch(*jnp.split(both, 2, axis=-1), train)
        return self.dense(dim, ("mlp", "embed"), "out_proj")(y)
