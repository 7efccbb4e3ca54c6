"""The mixer of Mamba: a gated selective scan behind a short convolution."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.models.layers import Dense, fan_in_uniform, partitioned
from scanmax.models.mixers.base import Mixer, filter_past
from scanmax.models.mixers.scan.selective import SelectiveSsm


class Mamba(Mixer):
    """Mamba: out(scan(silu(conv(u))) * silu(z)), u and z projections of x.

    Causal, it is the published mixer. On images the scan runs over the rows in both directions with
    shared parameters, a token's own term counted once, behind a convolution centred on the token;
    mixers of several directions with parameters of their own are "mamba_bidirectional" and
    "mamba_four_way". Prefix tokens stand before the image and take part like any other. `heads`
    only says into how many groups of channels the hidden attention is averaged.

    Attributes:
      expand: inner width over the model's.
      d_state: N, states of each channel.
      conv_width: taps of the convolution.
      dt_rank: width through which the step sizes go; None is the model's width / 16, rounded up.
      conv_bias: a bias in the convolution.
      out_scale: factor on the initial output projection; a host of depth L gives 1 / sqrt(L).
      implementation: the backend of whole sequences, "xla" or "pallas", as of
        `ops.selective_scan`; None is "xla".

    Reference: hidden-mamba-attention
    """

    formula: ClassVar[str] = (
        "h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t,  y_t = (C_t h_t + D x_t) * silu(z_t)"
    )
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("hidden-mamba-attention",)

    packs: ClassVar[bool] = True

    use_bias: bool = False
    expand: float = 2.0
    d_state: int = 16
    conv_width: int = 4
    dt_rank: int | None = None
    conv_bias: bool = True
    out_scale: float = 1.0
    implementation: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        dim, inner = x.shape[-1], int(self.expand * x.shape[-1])
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"use_bias": self.use_bias, **dtypes}
        projected = Dense(
            2 * inner, ("embed", "mlp"), kernel_init=fan_in_uniform(), name="in_proj", **options
        )(x)
        inputs, gate = jnp.split(projected, 2, axis=-1)
        ssm = SelectiveSsm(
            self.heads,
            self.d_state,
            self.dt_rank or -(-dim // 16),
            implementation=self.implementation,
            name="ssm",
            **dtypes,
        )
        kernel, bias = self.filter(inner)
        packed = self.packed(segment_ids, state)
        conv, hidden = (None, None) if state is None else (state["conv"], state["ssm"])
        if not self.is_causal:
            filtered = self.centred(inputs, kernel, bias)
            self.sow_attention(x.shape[1], lambda: ssm.matrix(filtered, is_causal=False))
            y = ssm(filtered, is_causal=False)
        else:
            filtered, conv = filter_past(inputs, kernel, bias, conv, activation="silu", **packed)
            self.sow_attention(x.shape[1], lambda: ssm.matrix(filtered, **packed))
            y = ssm(filtered, hidden, **packed)
            y, hidden = (y, None) if state is None else y
        y = y * jax.nn.silu(gate)
        y = Dense(
            dim,
            ("mlp", "embed"),
            kernel_init=fan_in_uniform(self.out_scale),
            name="out_proj",
            **options,
        )(y)
        return y if state is None else (y, {"conv": conv, "ssm": hidden})

    @nn.nowrap
    def filter(self, inner: int):
        """Kernel and bias of the convolution."""
        init, bias = fan_in_uniform(fan_in=self.conv_width), None
        kernel = self.param(
            "conv_kernel",
            partitioned(init, (None, "mlp"), (-2,)),
            (self.conv_width, inner),
            self.param_dtype,
        )
        if self.conv_bias:
            bias = self.param("conv_bias", partitioned(init, ("mlp",)), (inner,), self.param_dtype)
            bias = bias.astype(self.dtype)
        return kernel.astype(self.dtype), bias

    @nn.nowrap
    def centred(self, x, kernel, bias):
        """The convolution with its middle on the token, by the causal one on later tokens."""
        ahead = self.conv_width // 2
        y = ops.causal_conv1d(
            jnp.pad(x, ((0, 0), (0, ahead), (0, 0))), kernel, bias, activation="silu"
        )
        return y[:, ahead:]

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> dict[str, Array]:
        inner = int(self.expand * dim)
        ssm = SelectiveSsm(d_state=self.d_state, dtype=self.dtype, parent=None)
        return {
            "conv": jnp.zeros((batch_size, self.conv_width - 1, inner), self.dtype),
            "ssm": ssm.init_state(batch_size, inner),
        }
