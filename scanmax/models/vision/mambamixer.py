"""MambaMixer (Behrouz et al., 2024): ViM2, a pyramid of selective token and channel mixers.

Widths and numbers of mixers are those of the paper's table: two token mixers to one channel mixer,
here taken in that order, the latter of twice the stage's width but in the last stage. There is no
public code. Each mixer stands behind a norm and on a residual branch, as in VMamba, to which the
paper says that ViM2 reduces; its input is a learned weighted sum of all outputs before it in its
stage, at the start the last one alone. How the channel mixer is fed the paper does not settle, see
`mixers.SelectiveChannel`. The paper counts 20, 43 and 74 million parameters where these models have
24.0, 43.7 and 75.6: the first cannot follow from the table with a block that fits the others. The
forecaster TSM2 is in models/sequence/tsm2.py.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.models.blocks import create_norm, names_per_block
from scanmax.models.layers import DropPath
from scanmax.models.mixers import create_mixer, options_of
from scanmax.models.parts.average import average
from scanmax.models.registry import Variant, register_family
from scanmax.models.taps import tap
from scanmax.models.vision.msvmamba import PatchMergingPyramid


class MixerStage(nn.Module):
    """Token and channel mixers, each of which reads a weighted sum of all outputs before it.

        x_l = sum_i w_li y_i,   y_l = x_l + mixer_l(norm(x_l))

    y_0 is the stage's input. With weights (0, .., 0, 1), their start, these are residual blocks.

    Attributes:
      mixers: names of MIXERS, in order.
      mixer_options: for any mixer's name, fields of its module.
    """

    mixers: tuple[str, ...]
    heads: int
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    norm: str = "layer_norm"
    norm_epsilon: float = 1e-5
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        state: Any = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        outputs = [x]
        for index, name in enumerate(self.mixers):
            x = average(self, outputs, f"weights_{index:02d}")
            y = create_norm(
                self.norm, epsilon=self.norm_epsilon, name=f"norm_{index:02d}", **dtypes
            )(x)
            mixer = create_mixer(
                name,
                heads=self.heads,
                use_bias=False,
                options=options_of(name, self.mixer_options),
                name=f"mixer_{index:02d}",
                **dtypes,
            )
            y = mixer(y, grid=grid, train=train)
            y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
            x = x + DropPath()(y, drop_path_rate, train).astype(x.dtype)
            outputs.append(x)
        x = tap(self, "output", x)
        return x


class ViM2(PatchMergingPyramid):
    """VMamba's frame with stages of four-way token mixers and selective channel mixers.

    Attributes:
      token_mixers: mixers of tokens in each stage.
      channel_mixers: mixers of channels in each stage, each behind its share of the others.
      depths: `MixerStage`s of each stage.
      mixer: of the tokens, a name of MIXERS, or one per stage.
      channel_mixer: of the channels.
      channel_expand: inner width of the channel mixers over each stage's.
    """

    token_mixers: tuple[int, ...] = (2, 2, 6, 2)
    channel_mixers: tuple[int, ...] = (1, 1, 3, 1)
    depths: tuple[int, ...] = (1, 1, 1, 1)
    heads: tuple[int, ...] = (1, 1, 1, 1)
    mixer: str | tuple[str, ...] = "mamba_four_way"
    channel_mixer: str = "selective_channel"
    channel_expand: tuple[float, ...] = (2.0, 2.0, 2.0, 1.0)

    @property
    def block_type(self) -> type[nn.Module]:
        return MixerStage

    @nn.nowrap
    def block_fields(self, stage: int) -> list[dict[str, Any]]:
        """The fields of each `MixerStage` of a stage."""
        tokens, channels = self.token_mixers[stage], self.channel_mixers[stage]
        if tokens % channels:
            raise UserError(
                f"token_mixers={self.token_mixers} must be multiples of "
                f"channel_mixers={self.channel_mixers}"
            )
        name = names_per_block(self.mixer, len(self.dims))[stage]
        group = (*(name,) * (tokens // channels), self.channel_mixer)
        given = dict(self.mixer_options or {})
        expand = {"expand": self.channel_expand[stage]}
        options = {**given, self.channel_mixer: {**expand, **given.get(self.channel_mixer, {})}}
        fields = {
            "mixers": group * channels,
            "heads": self.heads[stage],
            "mixer_options": options,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "dropout_rate": self.dropout_rate,
            **self.dtypes,
        }
        return [fields] * self.depths[stage]


def _variant(params: int, dim: int, token_mixers: tuple[int, ...]) -> Variant:
    config = {
        "dims": tuple(dim * 2**stage for stage in range(4)),
        "token_mixers": token_mixers,
        "channel_mixers": tuple(number // 2 for number in token_mixers),
    }
    return Variant(params, (224, 224, 3), "mambamixer", config)


VARIANTS = {
    "vim2_tiny": _variant(24_011_439, 96, (2, 2, 6, 2)),
    "vim2_small": _variant(43_674_792, 96, (2, 2, 18, 2)),
    "vim2_base": _variant(75_582_792, 128, (2, 2, 18, 2)),
}

register_family("mambamixer", ViM2, VARIANTS)
