"""Weights from files and hubs: key tables per family, and one function that applies them."""

from scanmax.models.weights.load import Fit as Fit
from scanmax.models.weights.load import fit_weights as fit_weights
from scanmax.models.weights.load import load_weights as load_weights
from scanmax.models.weights.save import save_weights as save_weights
from scanmax.models.weights.sources import read_tensors as read_tensors
from scanmax.public import shown

__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
