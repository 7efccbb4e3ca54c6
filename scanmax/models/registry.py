"""Names of architectures: families, their published variants, and how a name becomes a module.

A family is one file of `scanmax.models.vision`, `language` or `sequence`: a flax module and a
VARIANTS table, registered at its end.

>>> VARIANTS = {
...     "deit_tiny_patch16_224": Variant(
...         5_717_416, (224, 224, 3), paper="deit", config={"dim": 192, "heads": 3}
...     ),
... }
>>> register_family("vit", VisionTransformer, VARIANTS)  # doctest: +SKIP
"""

import dataclasses
import fnmatch
import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from scanmax.errors import UserError, suggest
from scanmax.fields import check_value, ranged

# The families: files of the rooms of this package; each is imported when a name is first asked for.
FAMILY_MODULES = (
    "language.byte_recursive_ae",
    "language.char_cnn",
    "language.convbert",
    "language.dcnn",
    "language.lm",
    "language.mamba",
    "language.mamba2",
    "language.rwkv_clip_text",
    "language.squeezebert",
    "language.t5",
    "language.textcnn",
    "sequence.ccnn",
    "sequence.ckcnn",
    "sequence.flexnet",
    "vision.affnet",
    "vision.all_cnn",
    "vision.cas_vit",
    "vision.context_cluster",
    "vision.convit",
    "vision.convmixer",
    "vision.convnext",
    "vision.crossvit",
    "vision.cvt",
    "vision.ddrnet",
    "vision.dhvt",
    "vision.dpn",
    "vision.drwkv",
    "vision.efficientnet",
    "vision.fno",
    "vision.glnet",
    "vision.halonet",
    "vision.hornet",
    "vision.illama",
    "vision.inception_next",
    "vision.inception_v3",
    "vision.inline_deit",
    "vision.kat",
    "vision.lsnet",
    "vision.mambamixer",
    "vision.mavit",
    "vision.maxim",
    "vision.mixer",
    "vision.mlp_kan",
    "vision.moat",
    "vision.moh_vit",
    "vision.ms_mlp",
    "vision.msvmamba",
    "vision.nextvit",
    "vision.parcnetv2",
    "vision.pvt_v2",
    "vision.pyramid",
    "vision.ravlt",
    "vision.resnet",
    "vision.resnet_kan",
    "vision.rmt",
    "vision.rwkv_clip",
    "vision.scnet",
    "vision.simple_kan",
    "vision.smpconv",
    "vision.smt",
    "vision.soft",
    "vision.spanet",
    "vision.spartan",
    "vision.spectformer",
    "vision.swin",
    "vision.t2t_vit",
    "vision.terminator",
    "vision.transnext",
    "vision.uniformer",
    "vision.unireplknet",
    "vision.vgg",
    "vision.vgg_kan",
    "vision.vit",
    "vision.vit_comer",
    "vision.vit_resnas",
    "vision.vssd",
    "vision.wavemix",
    "vision.xcit",
)

INPUT_KINDS = ("image", "tokens")
# The field that says how wide the answers are: of a whole, of each pixel, of each token.
WIDTHS = ("num_classes", "out_channels", "vocab_size")

# What the fields of all families may hold, by their name: one name means one thing everywhere.
# Other whole numbers only must not be negative.
_SIZE, _COUNT = ranged(None, "[1, inf)").metadata, ranged(None, "[0, inf)").metadata
_RATE, _FACTOR = ranged(None, "[0, 1]").metadata, ranged(None, "(0, inf)").metadata
FIELD_RANGES = {
    **dict.fromkeys(("depth", "depths", "dim", "dims", "heads", "groups", "stem_dim"), _SIZE),
    **dict.fromkeys(("conv_width", "d_state", "dt_rank", "kernel_size", "state_size"), _SIZE),
    **dict.fromkeys(("img_size", "parallel", "patch_size", "vocab_size"), _SIZE),
    **dict.fromkeys(("centers", "channel_mixers", "token_dim", "token_mixers"), _SIZE),
    **dict.fromkeys(("drop_path_rate", "dropout_rate"), _RATE),
    **dict.fromkeys(("channel_expand", "expand"), _FACTOR),
    **dict.fromkeys(("mlp_ratio", "norm_epsilon"), _COUNT),
    # Shifts go either way.
    "distances": {},
}


# What other libraries call it: what it is here, or which field, of those that the model has.
OTHER_NAMES: dict[str, str | tuple[str, ...]] = {
    "pretrained": "weights are read by scanmax.load_weights(model, source), docs/weights.md",
    "checkpoint_path": "weights are read by scanmax.load_weights(model, source), docs/weights.md",
    "in_chans": "channels are those of the images [B, Y, X, C] that init is given",
    "in_channels": "channels are those of the images [B, Y, X, C] that init is given",
    "embed_dim": ("dim", "dims"),
    "embed_dims": ("dims", "dim"),
    "hidden_size": ("dim", "dims"),
    "num_heads": ("heads",),
    "num_layers": ("depth", "depths"),
    "drop_rate": ("dropout_rate",),
    "global_pool": ("pool",),
    "features_only": 'maps are given by model.apply(variables, x, method="features")',
}
# Where a model has none of those fields.
POOLED = 'num_classes=0 gives the pooled features, method="features" the maps before'


class Feature(NamedTuple):
    """One map of `method="features"`: its name, its stride in pixels or tokens, its channels."""

    name: str
    stride: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of a family's VARIANTS table.

    Attributes:
      params: exact number of parameters with the default classes.
      input_size: shape of one example, (Y, X, C) for images and (T,) for tokens.
      paper: id of the paper in the roster; "" for a size of our own, or a paper that is not there.
      config: hyper-parameters, fields of the family's module.
    """

    params: int
    input_size: tuple[int, ...]
    paper: str
    config: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a registered model without building its parameters.

    Attributes:
      name: the registered name.
      family: the family that registered it.
      params: exact number of parameters with the default classes.
      input_size: shape of one example, (Y, X, C) for images and (T,) for tokens.
      input_kind: "image" or "tokens".
      num_classes: width of the default head: the vocabulary for language models, the channels of
        the images for models that make some.
      paper: id of the paper in the roster; "" for a size of our own.
      features: the maps of `method="features"`, finest first.
    """

    name: str
    family: str
    params: int
    input_size: tuple[int, ...]
    input_kind: str
    num_classes: int
    paper: str
    features: tuple[Feature, ...]

    def example(self, batch_size: int = 1) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a batch of default inputs."""
        dtype = jnp.float32 if self.input_kind == "image" else jnp.int32
        return jax.ShapeDtypeStruct((batch_size, *self.input_size), dtype)


@dataclasses.dataclass(frozen=True)
class _Family:
    name: str
    module: type[nn.Module]
    variants: Mapping[str, Variant]
    input_kind: str


_families: dict[str, _Family] = {}


def register_family(
    family: str,
    module: type[nn.Module],
    variants: Mapping[str, Variant],
    *,
    input_kind: str = "image",
) -> None:
    """Makes the variants of a family known to create_model, list_models and model_info.

    Args:
      family: name of the family; registering it again from the same module replaces it.
      module: the flax module; its `feature_info()` tells the maps of `method="features"`.
      variants: name of each variant, and its row.
      input_kind: "image" or "tokens".

    Raises:
      ValueError: a variant's name belongs to another family, or a field is not the module's.
    """
    if input_kind not in INPUT_KINDS:
        raise ValueError(f"input_kind={input_kind!r} is not one of {INPUT_KINDS}.")
    previous = _families.get(family)
    if previous is not None and previous.module.__module__ != module.__module__:
        raise ValueError(f"family {family!r} is registered by {previous.module.__module__}.")
    for name, variant in variants.items():
        for other in _families.values():
            if other.name != family and name in other.variants:
                raise ValueError(f"model {name!r} of {family!r} is a model of {other.name!r}.")
        unknown = set(variant.config) - set(_field_names(module))
        if unknown:
            raise ValueError(f"{name}: {module.__name__} has no field {sorted(unknown)}.")
    _families[family] = _Family(family, module, dict(variants), input_kind)
    _model_info.cache_clear()


def create_model(name: str, num_classes: int | None = None, **overrides: Any) -> nn.Module:
    """Builds the module of a registered model; no parameters are made.

    Args:
      name: a name that list_models() shows.
      num_classes: width of the head; None keeps the variant's, 0 removes the head and gives pooled
        features. Language models take `vocab_size=` instead, those that make images
        `out_channels=`.
      **overrides: any field of the module: dtype, mixer, depth, img_size, remat, ...

    Returns:
      The flax module, hyper-parameters set.

    Raises:
      UserError: an unknown name or field, for which the message lists near matches, or a number
        that no model has, such as a depth of 0.

    Example:
      >>> import scanmax
      >>> scanmax.create_model("deit_tiny_patch16_224", num_classes=10).dim
      192
    """
    family, variant = _find(name)
    fields = _field_names(family.module)
    if num_classes is not None:
        if "num_classes" not in fields:
            what = (
                "makes images: pass out_channels="
                if "out_channels" in fields
                else ("is a language model: pass vocab_size=")
            )
            raise UserError(f"{name} {what}, not num_classes.")
        overrides["num_classes"] = num_classes
    for field in overrides:
        if field not in fields:
            raise UserError(
                f"model {name!r} has no field {field!r}; "
                + (hint_of(field, fields) or suggest(field, fields, limit=40))
            )
        check_value(f"model {name!r}: {field}", overrides[field], _range_of(family.module, field))
    config = {**variant.config, **overrides}
    # Module fields are static under jit and hence hashable; config files write lists.
    return family.module(**{key: _hashable(value) for key, value in config.items()})


def hint_of(field: str, fields: Sequence[str]) -> str:
    """What a field of another library is here, "" where nobody knows it.

    >>> hint_of("embed_dim", ["dim", "depth"])
    'it is dim= here'
    """
    known = OTHER_NAMES.get(field, "")
    if isinstance(known, str):
        return known
    ours = next((name for name in known if name in fields), "")
    return f"it is {ours}= here" if ours else POOLED if field == "global_pool" else ""


def list_models(pattern: str = "*", family: str | None = None) -> list[str]:
    """Names of the registered models, sorted.

    Args:
      pattern: shell wildcards, as in "deit_*_384".
      family: restricts the list to one family.

    Returns:
      The names; empty when none matches.

    Raises:
      UserError: an unknown family.

    Example:
      >>> import scanmax
      >>> scanmax.list_models("deit_tiny_p*")
      ['deit_tiny_patch16_224']
    """
    families = _load()
    if family is not None and family not in families:
        raise UserError(f"unknown family {family!r}; {suggest(family, families)}")
    chosen = families.values() if family is None else [families[family]]
    names = [name for entry in chosen for name in entry.variants]
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def model_info(name: str) -> ModelInfo:
    """What is known of a registered model: family, parameters, input, paper, feature maps.

    Args:
      name: a name that list_models() shows.

    Returns:
      A frozen ModelInfo of the variant with its default fields.

    Raises:
      UserError: an unknown name; the message lists near matches.

    Example:
      >>> import scanmax
      >>> scanmax.model_info("deit_tiny_patch16_224").params
      5717416
    """
    _find(name)
    return _model_info(name)


@functools.cache
def _model_info(name: str) -> ModelInfo:
    family, variant = _find(name)
    module = create_model(name)
    fields = _field_names(family.module)
    width = next(field for field in WIDTHS if field in fields)
    return ModelInfo(
        name=name,
        family=family.name,
        params=variant.params,
        input_size=variant.input_size,
        input_kind=family.input_kind,
        num_classes=getattr(module, width),
        paper=variant.paper,
        features=tuple(module.feature_info()),
    )


def _range_of(module: type[nn.Module], field: str) -> Mapping[str, Any]:
    if field in FIELD_RANGES:
        return FIELD_RANGES[field]
    (annotation,) = (entry.type for entry in dataclasses.fields(module) if entry.name == field)
    return _COUNT if annotation in (int, tuple[int, ...]) else {}


def _load() -> Mapping[str, _Family]:
    """Imports the family files; each registers itself."""
    for module in FAMILY_MODULES:
        importlib.import_module(f"scanmax.models.{module}")
    return _families


def _find(name: str) -> tuple[_Family, Variant]:
    families = _load()
    for family in families.values():
        if name in family.variants:
            return family, family.variants[name]
    names = [known for family in families.values() for known in family.variants]
    raise UserError(f"unknown model {name!r}; {suggest(name, names)}")


def _field_names(module: type[nn.Module]) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(module)
        if field.init and field.name not in ("parent", "name")
    ]


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, Mapping):
        return FrozenDict({key: _hashable(item) for key, item in value.items()})
    return value
