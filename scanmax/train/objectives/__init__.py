"""What a run minimises, one file each; `config.objective.name` names one of OBJECTIVES."""

from scanmax.train.objectives.base import Batch, Losses, Objective
from scanmax.train.objectives.classification import Classification
from scanmax.train.objectives.language_model import LanguageModel
from scanmax.train.objectives.regression import Regression
from scanmax.train.objectives.sequence_labels import SequenceLabels

OBJECTIVES: dict[str, type[Objective]] = {
    "classification": Classification,
    "language_model": LanguageModel,
    "regression": Regression,
    "sequence_labels": SequenceLabels,
}
