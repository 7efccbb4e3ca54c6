"""TSM2 (Behrouz et al., 2024): MambaMixer for multivariate time series, a forecaster.

Selective scans over time, the variates as channels, and over variates, both ways, their past as
channels; each reads a learned weighted sum of all outputs before it, behind a norm over time and
variates. There is no public code, and the paper gives no widths: these fields are ours, and there
are no registered variants.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import Dense, Mlp, ones_init, partitioned, zeros_init
from scanmax.models.mixers import create_mixer
from scanmax.models.parts.average import average


class Tsm2(nn.Module):
    """The past of M variates [B, T, M] to their next values [B, horizon, M].

        time:      y = x + mamba(norm(x)),         variates:  y = x + mamba_both(norm(x)^T)^T
        forecast:  W y + b over time, one map for all variates

    where x is the learned sum of the outputs so far, at the start the last one alone. Further
    series of the past that help (the calendar, prices) pass an MLP and are added to the input; of
    known futures the public material does not say enough.

    Attributes:
      horizon: how many values are forecast.
      depth: pairs of a mixer of time and one of variates.
      time_mixer: a name of MIXERS that can be causal.
      variate_mixer: a name of MIXERS that reads a line both ways; None leaves it out.
      d_state: states of each channel.
      expand: inner width over the number of variates, or over T.
      auxiliary_hidden: width of the MLP for further series.
    """

    horizon: int
    depth: int = 2
    time_mixer: str = "mamba"
    variate_mixer: str | None = "mamba_bidirectional"
    d_state: int = 16
    expand: float = 2.0
    auxiliary_hidden: int = 32
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        series: Float[Array, "B T M"],
        auxiliary: Float[Array, "B T A"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B horizon M"]:
        """The forecast."""
        x = series.astype(self.dtype)
        if auxiliary is not None:
            hidden = Mlp(self.auxiliary_hidden, name="auxiliary", **self.dtypes)(
                auxiliary.astype(self.dtype), train=train
            )
            add = Dense(x.shape[-1], ("embed", "mlp"), name="auxiliary_out", **self.dtypes)
            x = x + add(hidden)
        outputs, names = [x], []
        for pair in range(self.depth):
            names.append(f"time_{pair:02d}")
            if self.variate_mixer is not None:
                names.append(f"variates_{pair:02d}")
        for name in names:
            x = average(self, outputs, f"weights_{name}")
            y = self.normed(x, f"norm_{name}")
            if name.startswith("time"):
                y = self.mixer(self.time_mixer, name, is_causal=True)(y, train=train)
            else:
                turned = self.mixer(self.variate_mixer, name)(y.swapaxes(1, 2), train=train)
                y = turned.swapaxes(1, 2)
            outputs.append(x + y)
            self.sow("intermediates", name, outputs[-1])
        x = average(self, outputs, "weights_head")
        head = Dense(self.horizon, ("embed", "mlp"), name="head", **self.dtypes)
        return head(x.swapaxes(1, 2)).swapaxes(1, 2)

    @nn.nowrap
    def mixer(self, kind: str, name: str, **fields: Any) -> nn.Module:
        options = {"d_state": self.d_state, "expand": self.expand}
        return create_mixer(kind, heads=1, options=options, name=name, **fields, **self.dtypes)

    @nn.nowrap
    def normed(self, x: Float[Array, "B T M"], name: str) -> Float[Array, "B T M"]:
        """One mean and variance over time and variates; a scale and bias for each variate."""
        shape = x.shape[-1:]
        scale, bias = (
            self.param(f"{name}_{part}", partitioned(init, ("embed",)), shape, self.param_dtype)
            for part, init in (("scale", ones_init), ("bias", zeros_init))
        )
        scale, bias = scale.astype(self.dtype), bias.astype(self.dtype)
        return ops.group_norm(x, scale, bias, groups=1, axes=(-2,), epsilon=self.norm_epsilon)

    @property
    def dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}
