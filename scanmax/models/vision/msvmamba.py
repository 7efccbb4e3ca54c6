"""MSVMamba (Shi et al., 2024): a pyramid of multi-scale selective scans and convolved MLPs.

Widths, depths and the released mixer (a state of width 1, the three scans of the smaller map joined
into one with one set of parameters, squeeze-and-excitation) are those of the authors' public
configurations and code of the first version; its modules in torch have these parameters to the last
one: 6.9, 11.9 and 33 million, as the paper rounds them (a remark in the code gives 33.08 for the
third). The second version's models and the weights, which are not on a hub, are not here.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.blocks import Block
from scanmax.models.layers import Conv, Dense, activation, constrain_last, fan_in_uniform
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.pyramid import Pyramid


class ConvFfn(nn.Module):
    """Dense, plus its own 3x3 depthwise convolution, activation, Dense: an MLP that sees places."""

    hidden: int
    activation: str = "gelu"
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool = False) -> Float[Array, "B Y X C"]:
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def dense(features, axes, fan_in, name):
            init = {"kernel_init": fan_in_uniform(), "bias_init": fan_in_uniform(fan_in=fan_in)}
            return Dense(features, axes, name=name, **init, **options)

        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        y = drop(dense(self.hidden, ("embed", "mlp"), x.shape[-1], "fc1")(x))
        conv = Conv(
            self.hidden,
            3,
            groups=self.hidden,
            kernel_init=fan_in_uniform(),
            bias_init=fan_in_uniform(fan_in=9),
            name="depthwise",
            **options,
        )
        y = constrain_last(activation(self.activation)(y + conv(y)), "mlp")
        return drop(dense(x.shape[-1], ("mlp", "embed"), self.hidden, "fc2")(y))


class ConvFfnBlock(Block):
    """x + mixer(norm(x)), then x + conv_ffn(norm(x)) over the grid."""

    @nn.nowrap
    def add_mlp(self, x: Float[Array, "B T D"], rate, grid, train: bool) -> Float[Array, "B T D"]:
        y = self.create_norm(2)(x)
        ffn = ConvFfn(
            self.mlp_hidden,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            name="conv_ffn",
            **self.dtypes,
        )
        maps = ffn(y.reshape(x.shape[0], *grid, x.shape[-1]), train)
        return self.add_branch(x, maps.reshape(x.shape), 2, rate, train)


class PatchMergingPyramid(Pyramid):
    """The pyramid with VMamba's frame: a patch stem with a norm, and 2x2 pixels merged by a map."""

    overlap: bool = False
    position_conv: int = 0
    norm_epsilon: float = 1e-5

    @nn.nowrap
    def downsample(self, x: Float[Array, "B Y X C"], stage: int, train: bool):
        """Norm and linear map of every four pixels; odd sides are padded with zeros."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        corners = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
        x = self.create_norm(f"downsample{stage}_norm")(jnp.concatenate(corners, axis=-1))
        return Dense(
            self.dims[stage],
            ("embed", "mlp"),
            use_bias=False,
            name=f"downsample{stage}",
            **self.dtypes,
        )(x)


class MsVMamba(PatchMergingPyramid):
    """The pyramid with `mamba_multi_scale` mixers and convolved MLPs.

    Attributes:
      d_state: states of each channel of the mixers.
    """

    mixer: str | tuple[str, ...] = "mamba_multi_scale"
    mlp_ratio: float = 2.0
    heads: tuple[int, ...] = (1, 1, 1, 1)
    d_state: int = 1

    @property
    def block_type(self) -> type[nn.Module]:
        return ConvFfnBlock

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        """The fields of each block of a stage."""
        own = {"mamba_multi_scale": {"d_state": self.d_state, "use_bias": False}}
        given = dict(self.mixer_options or {})
        options = {name: {**own.get(name, {}), **given.get(name, {})} for name in {*own, *given}}
        return [{**fields, "mixer_options": options} for fields in super().block_fields(stage)]


def _variant(params: int, dim: int, depths: tuple[int, ...]) -> Variant:
    config = {"dims": tuple(dim * 2**stage for stage in range(4)), "depths": depths}
    return Variant(params, (224, 224, 3), "msvmamba", config)


VARIANTS = {
    "msvmamba_nano": _variant(6_864_136, 48, (1, 2, 5, 2)),
    "msvmamba_micro": _variant(11_879_272, 64, (1, 2, 5, 2)),
    "msvmamba_tiny": _variant(33_046_312, 96, (1, 2, 9, 2)),
}

register_family("msvmamba", MsVMamba, VARIANTS)
