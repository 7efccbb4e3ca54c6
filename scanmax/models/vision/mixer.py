"""MLP-Mixer (Tolstikhin et al., 2021), gMixer and ResMLP: perceptrons over tokens and channels.

They are the isotropic host with one mixer, without class token and positions: the places are in the
weights of the mixer.
"""

from typing import Any

from scanmax.models.mixers import with_defaults
from scanmax.models.registry import Variant, register_family
from scanmax.models.vision.vit import VisionTransformer


class MlpMixer(VisionTransformer):
    """Patches, blocks of a perceptron over tokens and one over channels, a norm, a mean, a head.

    Attributes:
      img_size: side of the images whose patches the weights over tokens are for, or (Y, X); at
        other sizes they are resampled (`mixers.TokenMlp`).
      token_ratio: hidden width over tokens, over the model's; 0 leaves one linear map over tokens.
      gated_mlp: both perceptrons multiply their values by the activation of a gate.
      mixer: a name of MIXERS, or one per block; token_ratio and gated_mlp are of "token_mlp".
    Others are those of `VisionTransformer`.

    Example:
      >>> import jax, scanmax
      >>> model = scanmax.create_model("mixer_s32_224", num_classes=10)
      >>> example = scanmax.model_info("mixer_s32_224").example()  # [1, 224, 224, 3]
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), example)[0].shape
      (1, 10)

    Reference: mlp-mixer
    """

    mixer: str | tuple[str, ...] = "token_mlp"
    token_ratio: float = 0.5
    gated_mlp: bool = False
    heads: int = 1
    class_token: bool = False
    pool: str = "avg"
    fc_norm: bool | None = False
    positions: str = "none"

    def plain_block_fields(self) -> list[dict[str, Any]]:
        own = {
            "token_grid": self.fitted_grid,
            "hidden": round(self.dim * self.token_ratio),
            "gated": self.gated_mlp,
            "activation": self.activation,
        }
        options = with_defaults({"token_mlp": own}, self.mixer_options)
        extra = {"mixer_options": options, "gated_mlp": self.gated_mlp}
        return [fields | extra for fields in super().plain_block_fields()]


def _variant(params: int, dim: int, depth: int, patch: int, paper: str = "", **fields: Any):
    config = {"dim": dim, "depth": depth, "patch_size": patch, **fields}
    return Variant(params, (224, 224, 3), paper, config)


def _mixer(params: int, dim: int, depth: int, patch: int) -> Variant:
    return _variant(params, dim, depth, patch, "mlp-mixer")


def _gmixer(params: int, depth: int) -> Variant:
    # timm counts the values and the gate together.
    ratios = {"token_ratio": 0.5, "mlp_ratio": 2.0, "gated_mlp": True}
    return _variant(params, 384, depth, 16, activation="silu", **ratios)


def _resmlp(params: int, depth: int, scale: float, dim: int = 384, patch: int = 16) -> Variant:
    fields = {"token_ratio": 0.0, "norm": "affine", "layer_scale": scale}
    return _variant(params, dim, depth, patch, **fields)


VARIANTS = {
    "mixer_s32_224": _mixer(19_104_624, 512, 8, 32),
    "mixer_s16_224": _mixer(18_528_264, 512, 8, 16),
    "mixer_b32_224": _mixer(60_293_428, 768, 12, 32),
    "mixer_b16_224": _mixer(59_880_472, 768, 12, 16),
    "mixer_l32_224": _mixer(206_939_264, 1024, 24, 32),
    "mixer_l16_224": _mixer(208_196_168, 1024, 24, 16),
    "mixer_h14_224": _mixer(432_350_952, 1280, 32, 14),
    "gmixer_12_224": _gmixer(12_701_080, 12),
    "gmixer_24_224": _gmixer(24_721_096, 24),
    "resmlp_12_224": _resmlp(15_350_872, 12, 1e-4),
    "resmlp_24_224": _resmlp(30_020_680, 24, 1e-5),
    "resmlp_36_224": _resmlp(44_690_488, 36, 1e-6),
    "resmlp_big_24_224": _resmlp(129_138_280, 24, 1e-6, dim=768, patch=8),
}

register_family("mixer", MlpMixer, VARIANTS)
