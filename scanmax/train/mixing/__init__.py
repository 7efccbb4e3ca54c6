"""Mixing of examples on the device, one file each; `config.mix` names some of MIXES, in order.

A mix is a frozen dataclass, its fields the options, called with `(key, batch, guide) -> batch`. It
runs inside the compiled step over the whole, sharded batch, before it is cut for accumulation.
Labels become distributions [B, C]; `mix_mask`, `mix_weight` and `mix_labels` say what the last of
them mixed.
"""

from scanmax.public import shown
from scanmax.train.mixing.attentive_cutmix import AttentiveCutMix
from scanmax.train.mixing.base import Mix
from scanmax.train.mixing.cutmix import CutMix
from scanmax.train.mixing.cutout import Cutout
from scanmax.train.mixing.gridmix import GridMix
from scanmax.train.mixing.maskmix import MaskMix
from scanmax.train.mixing.mixup import Mixup
from scanmax.train.mixing.mixup_cutmix import MixupCutmix
from scanmax.train.mixing.resizemix import ResizeMix
from scanmax.train.mixing.saliencymix import SaliencyMix
from scanmax.train.mixing.smmix import SmMix
from scanmax.train.mixing.snapmix import SnapMix
from scanmax.train.mixing.tokenmix import TokenMix

MIXES: dict[str, type[Mix]] = {
    "attentive_cutmix": AttentiveCutMix,
    "cutmix": CutMix,
    "cutout": Cutout,
    "gridmix": GridMix,
    "maskmix": MaskMix,
    "mixup": Mixup,
    "mixup_cutmix": MixupCutmix,
    "resizemix": ResizeMix,
    "saliencymix": SaliencyMix,
    "smmix": SmMix,
    "snapmix": SnapMix,
    "tokenmix": TokenMix,
}

__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
