"""Losses beside the objective's own, one file each; `config.objective.terms` names some."""

from scanmax.train.terms.attention_transfer import AttentionTransfer
from scanmax.train.terms.base import Term
from scanmax.train.terms.dist import Dist
from scanmax.train.terms.dkd import Dkd
from scanmax.train.terms.hard import Hard
from scanmax.train.terms.hint import Hint
from scanmax.train.terms.kd import Kd
from scanmax.train.terms.nd_loss_kd import NdLossKd
from scanmax.train.terms.relations import Rkd, Similarity

TERMS: dict[str, type[Term]] = {
    "attention_transfer": AttentionTransfer,
    "dist": Dist,
    "dkd": Dkd,
    "hard": Hard,
    "hint": Hint,
    "kd": Kd,
    "nd_loss_kd": NdLossKd,
    "rkd": Rkd,
    "similarity": Similarity,
}
