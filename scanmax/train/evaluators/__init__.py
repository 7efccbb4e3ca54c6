"""Evaluations beside the objective's own, one file each; `config.evaluators` names some.

An evaluator is a frozen dataclass, its fields the options, called with `(run, state) -> metrics`;
its `metric_names` may be what "best" means.
"""

from scanmax.public import shown
from scanmax.train.evaluators.base import Evaluator, OnFeatures
from scanmax.train.evaluators.calibration import Calibration
from scanmax.train.evaluators.clustering import Clustering
from scanmax.train.evaluators.knn import Knn
from scanmax.train.evaluators.linear_probe import LinearProbe
from scanmax.train.evaluators.path_ablation import PathAblation
from scanmax.train.evaluators.sharpness import Sharpness
from scanmax.train.evaluators.towers import Retrieval, ZeroShot

EVALUATORS: dict[str, type[Evaluator]] = {
    "calibration": Calibration,
    "clustering": Clustering,
    "knn": Knn,
    "linear_probe": LinearProbe,
    "path_ablation": PathAblation,
    "retrieval": Retrieval,
    "sharpness": Sharpness,
    "zero_shot": ZeroShot,
}

__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
