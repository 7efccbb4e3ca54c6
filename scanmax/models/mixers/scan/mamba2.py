"""The mixer of the published Mamba-2 language models: the causal `ssd` with its authors' start."""

import flax.linen as nn

from scanmax.models.layers import Dense, fan_in_uniform
from scanmax.models.mixers.scan.ssd import Ssd


class Mamba2(Ssd):
    """Mamba-2: out(rms(ssd(conv(x, B, C), dt) * silu(z))), all five linear in the token.

    The sums are those of `Ssd`; the parameters start as the authors' do: uniform by fan-in, the
    output projection smaller by `out_scale`.

    Attributes:
      out_scale: factor on the initial output projection; a host of depth L gives 1 / sqrt(L).

    Reference: mamba2-ssd
    """

    state_size: int = 128
    use_bias: bool = False
    out_scale: float = 1.0

    @nn.nowrap
    def dense(self, features: int, axes, name: str) -> Dense:
        return Dense(
            features,
            axes,
            use_bias=self.use_bias,
            kernel_init=fan_in_uniform(self.out_scale if name == "out_proj" else 1.0),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )
