"""Losses beside the objective's own, one file each; `config.objective.terms` names some."""

from scanmax.public import shown
from scanmax.train.terms.affinity import Affinity
from scanmax.train.terms.attention_map import AttentionMap
from scanmax.train.terms.attention_transfer import AttentionTransfer
from scanmax.train.terms.base import Term
from scanmax.train.terms.channelwise import Channelwise
from scanmax.train.terms.clip_kd import ClipKd
from scanmax.train.terms.cross_arch import CrossArch
from scanmax.train.terms.cross_attention import CrossAttention
from scanmax.train.terms.crosskd import CrossKd
from scanmax.train.terms.cskd import Cskd
from scanmax.train.terms.deviation_aware import DeviationAware
from scanmax.train.terms.discriminator import Discriminator
from scanmax.train.terms.dist import Dist
from scanmax.train.terms.distance_correlation import DistanceCorrelation
from scanmax.train.terms.diswot import DisWot
from scanmax.train.terms.dkd import Dkd
from scanmax.train.terms.ensemble_kd import EnsembleKd
from scanmax.train.terms.hard import Hard
from scanmax.train.terms.hint import Hint
from scanmax.train.terms.kd import Kd
from scanmax.train.terms.m2mkd import M2mKd
from scanmax.train.terms.nd_loss_kd import NdLossKd
from scanmax.train.terms.ofa import Ofa
from scanmax.train.terms.path_self_distill import PathSelfDistill
from scanmax.train.terms.proc_kd import ProcKd
from scanmax.train.terms.relations import Congruence, Rkd, Similarity
from scanmax.train.terms.scalekd import ScaleKd
from scanmax.train.terms.selective_fusion import SelectiveFusion
from scanmax.train.terms.similarity_matrix import SimilarityMatrix
from scanmax.train.terms.tgeo_kd import TgeoKd
from scanmax.train.terms.topkld import TopKld
from scanmax.train.terms.wcord import Wcord

TERMS: dict[str, type[Term]] = {
    "affinity": Affinity,
    "attention_map": AttentionMap,
    "attention_transfer": AttentionTransfer,
    "channelwise": Channelwise,
    "clip_kd": ClipKd,
    "congruence": Congruence,
    "cross_arch": CrossArch,
    "cross_attention": CrossAttention,
    "crosskd": CrossKd,
    "cskd": Cskd,
    "deviation_aware": DeviationAware,
    "discriminator": Discriminator,
    "dist": Dist,
    "distance_correlation": DistanceCorrelation,
    "diswot": DisWot,
    "dkd": Dkd,
    "ensemble_kd": EnsembleKd,
    "hard": Hard,
    "hint": Hint,
    "kd": Kd,
    "m2mkd": M2mKd,
    "nd_loss_kd": NdLossKd,
    "ofa": Ofa,
    "path_self_distill": PathSelfDistill,
    "proc_kd": ProcKd,
    "rkd": Rkd,
    "scalekd": ScaleKd,
    "selective_fusion": SelectiveFusion,
    "similarity": Similarity,
    "similarity_matrix": SimilarityMatrix,
    "tgeo_kd": TgeoKd,
    "topkld": TopKld,
    "wcord": Wcord,
}

__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
