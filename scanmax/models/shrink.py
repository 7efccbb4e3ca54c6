"""Registered image models made small by one rule, so that all learn the same digits in minutes.

>>> import scanmax
>>> fields, image_size = shrink("deit_tiny_patch16_224")
>>> fields
{'img_size': 16, 'patch_size': 4, 'dim': 48, 'depth': 4}
>>> model = scanmax.create_model("deit_tiny_patch16_224", num_classes=10, **fields)
"""

import dataclasses
import math
from typing import Any, NamedTuple

from scanmax.errors import UserError
from scanmax.models.registry import create_model, model_info

RULE = """\
- **Image**: 32 pixels a side where the small network's last map has a stride of 16 or more, 16
  elsewhere. A digit has 8 x 8 pixels: four stages see it at 8 x 8, 4 x 4, 2 x 2 and 1 x 1,
  networks without stages as 4 x 4 patches or pixel by pixel.
- **Width**: all widths of a network, its groups too, are divided by the same power of two, the
  least by which its widest stage or branch has 128 channels at most, or 64 where all blocks are as
  wide. As many heads as before, or the most of them that divide the width.
- **Depth**: one or two blocks in each stage, at most 4 where there are no stages.
- **Sizes**: patches, windows, regions, blocks and the map that a head of several layers reads have
  4 pixels or tokens a side at most.
- **Training**: no dropout and no dropped paths; a layer scale that starts below 1 starts at 1.
"""
LARGE, SMALL, STRIDE, PATCH = 32, 16, 16, 4
STAGE_WIDTH, WIDTH = 128, 64
STAGE_DEPTH, DEPTH = 2, 4

_WIDTHS = ("groups", "growths", "head_size", "state_size")
_DEPTHS = ("depths", "token_mixers", "channel_mixers")
_SIZES = ("patch_size", "window_size", "region_sizes", "block_size", "hidden_size")
_RATES = ("drop_path_rate", "dropout_rate", "input_dropout_rate")

# What the rule says otherwise of a family, for the sake of what makes it one.
EXCEPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "affnet": (
        "four groups in its filters, which divide all widths",
        {"mixer_options": {"adaptive_filter": {"groups": 4}}},
    ),
    "crossvit": (
        "patches of 4 and of 8, both of the whole image and by one product",
        {"img_scales": (1.0, 1.0), "patch_sizes": (4, 8), "conv_stem": False},
    ),
    "ddrnet": ("a quarter of all widths", {"dim": 8, "last_dim": 256}),
    "nextvit": (
        "the second block of each stage but the first attends",
        {"group_sizes": (0, 2, 2, 2)},
    ),
    "t2t_vit": ("32 pixels, whose windows are joined once, to patches of 8", {"patch_size": 8}),
    "vit_resnas": (
        "two blocks in each stage",
        {
            "head_counts": ((3, 3), (6, 6), (12, 12)),
            "hidden_dims": ((96,) * 2, (192,) * 2, (384,) * 2),
        },
    ),
    "inception_v3": (
        "75 pixels, the least that it takes, and a sixteenth of all widths",
        {"width_ratio": 1 / 16},
    ),
}
_IMAGE_SIZES = {"inception_v3": 75, "t2t_vit": LARGE}


class Shrunk(NamedTuple):
    """How a model is made small: fields for create_model, and the side of its images."""

    fields: dict[str, Any]
    image_size: int


def shrink(name: str) -> Shrunk:
    """Makes a registered image model small, by RULE and its family's exception.

    Args:
      name: an image model that list_models() shows.

    Returns:
      The fields that differ from the variant's, and the side of its images.

    Raises:
      UserError: an unknown name, a model of tokens, or one that makes images.
    """
    info = model_info(name)
    model = create_model(name)
    if info.input_kind != "image" or not hasattr(model, "num_classes"):
        does = "makes images" if info.input_kind == "image" else "reads tokens"
        raise UserError(
            f"{name} {does}: only models that tell them apart are made small for digits"
        )
    fields = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    divisor = _divisor(fields)
    small = {key: _shrink(key, value, divisor) for key, value in fields.items()}
    small |= EXCEPTIONS.get(info.family, ("", {}))[1]
    if "heads" in small:
        small["heads"] = _dividing(small["heads"], small.get("dims", small.get("dim")))
    if small.get("groups", 1) > 1 and small.get("reduce_first", 1) > 1:
        # A convolution that is narrower than its groups are many reads nothing.
        small["base_width"] *= small["reduce_first"]
    strides = [feature.stride for feature in model.clone(**small).feature_info()]
    size = _IMAGE_SIZES.get(info.family, LARGE if strides[-1] >= STRIDE else SMALL)
    if "img_size" in small:
        small["img_size"] = size
    return Shrunk({key: value for key, value in small.items() if value != fields[key]}, size)


def _divisor(fields: dict[str, Any]) -> int:
    """The power of two that brings the widest stage to its bound."""
    bound = STAGE_WIDTH if "dims" in fields else WIDTH
    widest = max(_flat(fields.get("dims", fields.get("dim", 1))))
    return 2 ** max(math.ceil(math.log2(widest / bound)), 0)


def _shrink(key: str, value: Any, divisor: int) -> Any:
    if key in _RATES:
        return 0.0
    if key == "layer_scale":
        return _each(value, lambda scale: max(scale, 1.0))
    if key in _WIDTHS or key.endswith(("dim", "dims")):
        return _each(value, lambda width: -(-width // divisor))
    if key in _DEPTHS:
        return _each(value, lambda depth: max(min(depth, STAGE_DEPTH), 1))
    if key == "depth":
        return min(value, DEPTH)
    if key in _SIZES:
        return _each(value, lambda size: min(size, PATCH))
    return value


def _dividing(heads: Any, widths: Any) -> Any:
    """The most heads, of at most as many, that divide their widths."""
    if isinstance(heads, tuple):
        return tuple(math.gcd(*pair) for pair in zip(heads, widths, strict=True))
    return math.gcd(heads, *_flat(widths))


def _each(value: Any, function) -> Any:
    if isinstance(value, tuple):
        return tuple(_each(item, function) for item in value)
    return value if value is None else function(value)


def _flat(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, tuple) else [value]
