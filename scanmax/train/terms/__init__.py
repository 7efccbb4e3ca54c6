"""Losses beside the objective's own, one file each; `config.objective.terms` names some."""

from scanmax.train.terms.base import Term
from scanmax.train.terms.hard import Hard
from scanmax.train.terms.kd import Kd

TERMS: dict[str, type[Term]] = {
    "hard": Hard,
    "kd": Kd,
}
