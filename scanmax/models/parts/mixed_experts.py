"""A mixture of experts of two kinds: MLPs, and KANs of two layers (MLP-KAN)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import constrain, ones_init, partitioned, zeros_init
from scanmax.models.parts.experts import ExpertMlp
from scanmax.models.statistics import at_least_float32

_GRIDS, _RANGE = 8, (-2.0, 2.0)


class MixedExperts(ExpertMlp):
    """y_t = sum_e g_te f_e(x_t) over the top_k experts of a token, some MLPs, the others KANs.

        KAN(x) = layer_2(layer_1(x)),   layer(x)_o = sum_d sum_n c_dno B_n(norm(x)_d)

    B are eight bumps of `ops.switch_basis` from -2 to 2, norms have their own scale and bias, and
    nothing is added to a layer's sums: FasterKAN. Numbers of the first experts are those of MLPs.
    Nothing is dropped and no loss is added unless fields say so.

    Attributes:
      hidden: width of the MLPs; the KANs have half of it.
      kan_experts: how many are KANs; None is half of all, rounded down.
      norm_epsilon: of the norms in the KANs.
    Others are those of `ExpertMlp`, without `dropless`, which sorts tokens for MLPs alone, and
    `gated`.

    Reference: mlp-kan
    """

    num_experts: int = 8
    capacity_factor: float | None = None
    balance_weight: float = 0.0
    z_weight: float = 0.0
    kan_experts: int | None = None
    norm_epsilon: float = 1e-5

    @nn.nowrap
    def check_fields(self) -> None:
        """Refuses names that are none, and what does not go together."""
        super().check_fields()
        if self.dropless or self.gated:
            raise UserError("experts of two kinds do without dropless and gated")
        if not 0 <= self.kans <= self.num_experts:
            raise UserError(
                f"kan_experts={self.kan_experts}; expected 0 to num_experts={self.num_experts}."
            )

    @property
    def kans(self) -> int:
        """How many experts are KANs."""
        return self.num_experts // 2 if self.kan_experts is None else self.kan_experts

    @nn.nowrap
    def experts(self, x: Float[Array, "B E C D"], dim: int, train: bool):
        """Each expert's MLP or KAN on its own tokens."""
        mlps = self.num_experts - self.kans
        parts = [super().experts(x[:, :mlps], dim, train)] if mlps else []
        if self.kans:
            y = x[:, mlps:]
            widths = ((self.hidden // 2, ("embed", "mlp")), (dim, ("mlp", "embed")))
            for index, (features, axes) in enumerate(widths, 1):
                y = self.kan_layer(y, features, axes, index)
            parts.append(y)
        return jnp.concatenate(parts, 1)

    @nn.nowrap
    def kan_layer(self, x: Float[Array, "B E C D"], features: int, axes: tuple[str, str], index):
        """A norm, its bumps, and their sums, with the numbers of each expert."""
        count, width = x.shape[1], x.shape[-1]
        normed = ops.layer_norm(x, epsilon=self.norm_epsilon)
        for name, start in (("norm_scale", ones_init), ("norm_bias", zeros_init)):
            init = partitioned(start, ("expert", axes[0]))
            own = self.param(f"{name}{index}", init, (count, width), self.param_dtype)
            own = own.astype(normed.dtype)[None, :, None]
            normed = normed * own if name == "norm_scale" else normed + own
        centers = jnp.linspace(*_RANGE, _GRIDS, dtype=at_least_float32(self.dtype))
        basis = ops.switch_basis(normed, centers)
        # torch's xavier_uniform_ of the matrix that this is there.
        start = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", (-3, -2), -1, (0,))
        init = partitioned(start, ("expert", axes[0], None, axes[1]), (-3, -2), (-1,))
        shape = (count, width, _GRIDS, features)
        coefficients = self.param(f"coefficients{index}", init, shape, self.param_dtype)
        y = jnp.einsum("becdn,ednf->becf", basis, coefficients.astype(self.dtype))
        return constrain(y, ("expert_batch", "expert", None, axes[1] if index == 1 else None))
