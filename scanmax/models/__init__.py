"""Flax modules over the ops: mixers, hosts, published architectures with exact parameter counts."""

from scanmax.models.catalog import MixerInfo as MixerInfo
from scanmax.models.catalog import list_mixers as list_mixers
from scanmax.models.catalog import mixer_info as mixer_info
from scanmax.models.generation import generate as generate
from scanmax.models.registry import ModelInfo as ModelInfo
from scanmax.models.registry import Variant as Variant
from scanmax.models.registry import create_model as create_model
from scanmax.models.registry import list_models as list_models
from scanmax.models.registry import model_info as model_info
from scanmax.models.registry import register_family as register_family
from scanmax.models.weights import load_weights as load_weights
from scanmax.models.weights import save_weights as save_weights
from scanmax.public import shown

__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
