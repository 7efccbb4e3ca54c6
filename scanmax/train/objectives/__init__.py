"""What a run minimises, one file each; `config.objective.name` names one of OBJECTIVES."""

from scanmax.public import shown
from scanmax.train.objectives.augmix import AugMix
from scanmax.train.objectives.automix import AdAutoMix, AutoMix
from scanmax.train.objectives.base import Batch, Losses, Objective
from scanmax.train.objectives.byol import Byol
from scanmax.train.objectives.classification import Classification
from scanmax.train.objectives.contrastive import Clip, MaxMargin, Siglip
from scanmax.train.objectives.cosine_classification import CosineClassification
from scanmax.train.objectives.language_model import LanguageModel
from scanmax.train.objectives.matching import Matching
from scanmax.train.objectives.mutual import Mutual
from scanmax.train.objectives.mv_mr import MvMr
from scanmax.train.objectives.named import CaptionedClasses, DualHeadOptimization, SharedVectors
from scanmax.train.objectives.rate_reduction import RateReduction
from scanmax.train.objectives.regression import Regression
from scanmax.train.objectives.samix import SaMix
from scanmax.train.objectives.sequence_labels import SequenceLabels
from scanmax.train.objectives.simclr import SimClr
from scanmax.train.objectives.text_alignment import TextAlignment
from scanmax.train.objectives.text_classification import TextClassification

OBJECTIVES: dict[str, type[Objective]] = {
    "adautomix": AdAutoMix,
    "augmix": AugMix,
    "automix": AutoMix,
    "byol": Byol,
    "captioned_classes": CaptionedClasses,
    "classification": Classification,
    "clip": Clip,
    "cosine_classification": CosineClassification,
    "dual_head": DualHeadOptimization,
    "language_model": LanguageModel,
    "matching": Matching,
    "max_margin": MaxMargin,
    "mutual": Mutual,
    "mv_mr": MvMr,
    "rate_reduction": RateReduction,
    "regression": Regression,
    "samix": SaMix,
    "sequence_labels": SequenceLabels,
    "shared_vectors": SharedVectors,
    "siglip": Siglip,
    "simclr": SimClr,
    "text_alignment": TextAlignment,
    "text_classification": TextClassification,
}

__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
