"""Losses of classes, one file each; `config.objective.loss` names one of LOSSES.

A loss is a frozen dataclass, its fields `config.objective.loss_kwargs`, called with (logits,
labels). Labels are classes or, where examples are mixed, distributions.
"""

from scanmax.public import shown
from scanmax.train.config import ObjectiveConfig
from scanmax.train.losses.base import Loss as Loss
from scanmax.train.losses.binary_cross_entropy import BinaryCrossEntropy
from scanmax.train.losses.comp_sum import CompSum
from scanmax.train.losses.cross_entropy import SoftmaxCrossEntropy, StablemaxCrossEntropy
from scanmax.train.losses.cross_entropy import softmax_cross_entropy as softmax_cross_entropy
from scanmax.train.losses.cross_entropy import stablemax_cross_entropy as stablemax_cross_entropy
from scanmax.train.losses.decoupled_softmax import DecoupledSoftmax
from scanmax.train.losses.distillation import hard_distillation as hard_distillation
from scanmax.train.losses.distillation import soft_distillation as soft_distillation
from scanmax.train.losses.distillation import softened as softened
from scanmax.train.losses.distillation import uncertainty_weighted as uncertainty_weighted
from scanmax.train.losses.focal import Focal
from scanmax.train.losses.ldam import Ldam
from scanmax.train.losses.rate_reduction import coding_length as coding_length
from scanmax.train.losses.rate_reduction import coding_rate as coding_rate
from scanmax.train.losses.rate_reduction import compressed_rate as compressed_rate
from scanmax.train.losses.rate_reduction import sinkhorn_membership as sinkhorn_membership
from scanmax.train.losses.semantic_softmax import SemanticSoftmax
from scanmax.train.losses.soft_topk import SoftTopK
from scanmax.train.losses.spherical_softmax import SphericalSoftmax
from scanmax.train.losses.squared_hinge import SquaredHinge
from scanmax.train.losses.z_loss import ZLoss
from scanmax.train.plugs import make

LOSSES: dict[str, type[Loss]] = {
    "binary_cross_entropy": BinaryCrossEntropy,
    "comp_sum": CompSum,
    "decoupled_softmax": DecoupledSoftmax,
    "focal": Focal,
    "ldam": Ldam,
    "semantic_softmax": SemanticSoftmax,
    "soft_topk": SoftTopK,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "spherical_softmax": SphericalSoftmax,
    "squared_hinge": SquaredHinge,
    "stablemax_cross_entropy": StablemaxCrossEntropy,
    "z_loss": ZLoss,
}


def make_loss(config: ObjectiveConfig) -> Loss:
    """The loss that a config names.

    Raises:
      UserError: an unknown name, or an option that it does not take.
    """
    return make(LOSSES, config.loss, config.loss_kwargs, "config.objective.loss")


__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
