"""Labels of mixed images by what the model attends to, one file each; RELABELS by name.

`objective.kwargs={"relabel": "transmix"}` names one, or a pair of it and its options. It runs in
the forward pass that trains, on the attention that this computes, behind the last of `config.mix`.
"""

from typing import Any

from scanmax.public import shown
from scanmax.train.plugs import checked_pairs, make
from scanmax.train.relabels.base import Relabel as Relabel
from scanmax.train.relabels.mixpro import MixPro
from scanmax.train.relabels.tl_align import TlAlign
from scanmax.train.relabels.transmix import TransMix

RELABELS: dict[str, type[Relabel]] = {
    "mixpro": MixPro,
    "tl_align": TlAlign,
    "transmix": TransMix,
}


def make_relabel(entry: Any) -> Relabel | None:
    """The relabel of a name, or of a pair of it and its options; None for "".

    Raises:
      UserError: neither, an unknown name, or an option that it does not take.
    """
    if not entry:
        return None
    field = "config.objective.kwargs: relabel"
    ((name, options),) = checked_pairs((entry,), field)
    return make(RELABELS, name, options, field)


__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
