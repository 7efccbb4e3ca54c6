"""WaveMix: pixels meet in the bands of a wavelet transform."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import BatchNorm, gelu
from scanmax.models.mixers.base import MapMixer
from scanmax.models.parts.enlarge import Enlarge


class WaveMix(MapMixer):
    """WaveMix: a perceptron over the bands of a Haar transform at each level, enlarged again.

    D / 4 channels are transformed, so that the four bands of a level have D. From the deepest level
    on, a perceptron reads them, beside what the level below has made; a transposed convolution and
    a batch norm bring D / 2 channels to twice the size, and D at the first level. Odd maps, which
    the released code does not take, are cut to their size.

    Attributes:
      levels: of the transform.
      mlp_ratio: width of the hidden layers over D.
      features: channels before the transposed convolutions; None is D.
      dropout_rate: of the hidden layers.
      norm_momentum: weight of the old averages of the batch norms at each training step.
      frozen_statistics: batch norms keep their averages, in training too.
    """

    formula: ClassVar[str] = "y = f_1([b_1, f_2([b_2, ...])]),  f = BN(deconv(MLP)),  b = DWT(W x)"
    cost: ClassVar[str] = "T"
    papers: ClassVar[tuple[str, ...]] = ("wavemix",)

    levels: int = 1
    mlp_ratio: float = 2.0
    features: int | None = None
    dropout_rate: float = 0.5
    norm_momentum: float = 0.9
    frozen_statistics: bool = False

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        dim = maps.shape[-1]
        if dim % 4:
            raise UserError(f"WaveMix transforms a quarter of the width, {dim}: 4 must divide it")
        if self.levels < 1:
            raise UserError(f"levels={self.levels}: WaveMix reads the bands of at least one")
        low, grids, bands = self.dense(dim // 4, ("embed", "mlp"), "reduction")(maps), [], []
        for _ in range(self.levels):
            grids.append(low.shape[1:3])
            low, (detail,) = ops.haar_dwt2(low)
            bands.append(jnp.concatenate([low, jax.lax.collapse(detail, 3)], -1))
        hidden, features = int(dim * self.mlp_ratio), self.features or dim
        y = None
        for level in reversed(range(self.levels)):
            x = bands[level] if y is None else jnp.concatenate([bands[level], y], -1)
            x = gelu(self.dense(hidden, ("embed", "mlp"), f"fc1_{level + 1}")(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            x = self.dense(features, ("mlp", "embed"), f"fc2_{level + 1}")(x)
            up = Enlarge(dim // 2 if level else dim, name=f"up_{level + 1}", **self.dtypes)
            rows, columns = grids[level]
            y = up(x)[:, :rows, :columns]
            norm = BatchNorm(
                momentum=self.norm_momentum,
                frozen_statistics=self.frozen_statistics,
                name=f"norm_{level + 1}",
                **self.dtypes,
            )
            y = norm(y, train)
        return y
