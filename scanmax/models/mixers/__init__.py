"""Token mixers as modules of one signature, by name; hosts take `mixer=` any of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from scanmax.errors import UserError, suggest
from scanmax.models.mixers.attention.cosine import CosineAttention as CosineAttention
from scanmax.models.mixers.attention.decay import Alibi as Alibi
from scanmax.models.mixers.attention.decay import Manhattan as Manhattan
from scanmax.models.mixers.attention.decay import ManhattanDecomposed as ManhattanDecomposed
from scanmax.models.mixers.attention.deformable import Deformable as Deformable
from scanmax.models.mixers.attention.dot_product import Attention as Attention
from scanmax.models.mixers.attention.gpsa import Gpsa as Gpsa
from scanmax.models.mixers.attention.head_tokens import HeadTokens as HeadTokens
from scanmax.models.mixers.attention.heterogeneous import Heterogeneous as Heterogeneous
from scanmax.models.mixers.attention.latent import LatentAttention as LatentAttention
from scanmax.models.mixers.attention.moh import MixtureOfHeads as MixtureOfHeads
from scanmax.models.mixers.attention.selective import SelectiveAttention as SelectiveAttention
from scanmax.models.mixers.attention.soft import Soft as Soft
from scanmax.models.mixers.attention.soft_causal import SoftCausal as SoftCausal
from scanmax.models.mixers.attention.tensor import Tensor as Tensor
from scanmax.models.mixers.base import Mixer as Mixer
from scanmax.models.mixers.conv.aggregation import LsConv as LsConv
from scanmax.models.mixers.conv.conditional import ConditionalConv as ConditionalConv
from scanmax.models.mixers.conv.continuous import CkConv as CkConv
from scanmax.models.mixers.conv.continuous import ContinuousConv as ContinuousConv
from scanmax.models.mixers.conv.continuous import FlexConv as FlexConv
from scanmax.models.mixers.conv.continuous import SmpConv as SmpConv
from scanmax.models.mixers.conv.gated import GnConv as GnConv
from scanmax.models.mixers.conv.hyper_zzw import HyperZzw as HyperZzw
from scanmax.models.mixers.conv.hyper_zzw import HyperZzwLocal as HyperZzwLocal
from scanmax.models.mixers.conv.inception import Inception as Inception
from scanmax.models.mixers.conv.lightweight import DynamicConv as DynamicConv
from scanmax.models.mixers.conv.lightweight import LightConv as LightConv
from scanmax.models.mixers.conv.long import BaseConv as BaseConv
from scanmax.models.mixers.conv.long import Hyena as Hyena
from scanmax.models.mixers.conv.long import LongConv as LongConv
from scanmax.models.mixers.conv.long import SgConv as SgConv
from scanmax.models.mixers.conv.multi_order import MultiOrder as MultiOrder
from scanmax.models.mixers.conv.one_way import OneWayConv as OneWayConv
from scanmax.models.mixers.conv.oversized import Oversized as Oversized
from scanmax.models.mixers.conv.point_reparam import PointReparam as PointReparam
from scanmax.models.mixers.conv.relation import LocalRelation as LocalRelation
from scanmax.models.mixers.conv.reparameterized import DilatedReparam as DilatedReparam
from scanmax.models.mixers.conv.scale_aware import ScaleAware as ScaleAware
from scanmax.models.mixers.conv.shared import ConvShare as ConvShare
from scanmax.models.mixers.conv.shift import ShiftConv as ShiftConv
from scanmax.models.mixers.linear.attention import LinearAttention as LinearAttention
from scanmax.models.mixers.linear.cosformer import Cosformer as Cosformer
from scanmax.models.mixers.linear.cross_covariance import CrossCovariance as CrossCovariance
from scanmax.models.mixers.linear.decay import Gla as Gla
from scanmax.models.mixers.linear.decay import Retention as Retention
from scanmax.models.mixers.linear.gated import GatedAttention as GatedAttention
from scanmax.models.mixers.linear.inline import Inline as Inline
from scanmax.models.mixers.linear.mala import Mala as Mala
from scanmax.models.mixers.linear.performer import Performer as Performer
from scanmax.models.mixers.linear.rala import Rala as Rala
from scanmax.models.mixers.linear.scaling import Scaling as Scaling
from scanmax.models.mixers.local.aggregated import AggregatedAttention as AggregatedAttention
from scanmax.models.mixers.local.convolved import ConvAdditive as ConvAdditive
from scanmax.models.mixers.local.convolved import ConvProjection as ConvProjection
from scanmax.models.mixers.local.convolved import Lkca as Lkca
from scanmax.models.mixers.local.maps import HaloAttention as HaloAttention
from scanmax.models.mixers.local.maps import MsaConv as MsaConv
from scanmax.models.mixers.local.maps import NeighborhoodAttention as NeighborhoodAttention
from scanmax.models.mixers.local.maps import ShiftedWindowAttention as ShiftedWindowAttention
from scanmax.models.mixers.local.maps import WindowAttention as WindowAttention
from scanmax.models.mixers.local.pooled import Pooled as Pooled
from scanmax.models.mixers.local.pooled import SpatialReduction as SpatialReduction
from scanmax.models.mixers.local.sparse import PerHeadWindow as PerHeadWindow
from scanmax.models.mixers.local.sparse import SparseFixed as SparseFixed
from scanmax.models.mixers.local.sparse import SparseStrided as SparseStrided
from scanmax.models.mixers.mlp.kan import KanAttentionMixer as KanAttentionMixer
from scanmax.models.mixers.mlp.kan import KanFocalMixer as KanFocalMixer
from scanmax.models.mixers.mlp.mix_shift import MixShift as MixShift
from scanmax.models.mixers.mlp.multi_axis import MultiAxisMlp as MultiAxisMlp
from scanmax.models.mixers.mlp.perceptron import TokenMlp as TokenMlp
from scanmax.models.mixers.scan.cross import Mamba2FourWay as Mamba2FourWay
from scanmax.models.mixers.scan.cross import MambaBidirectional as MambaBidirectional
from scanmax.models.mixers.scan.cross import MambaFourWay as MambaFourWay
from scanmax.models.mixers.scan.delta_rule import Delta as Delta
from scanmax.models.mixers.scan.delta_rule import GatedDelta as GatedDelta
from scanmax.models.mixers.scan.mamba import Mamba as Mamba
from scanmax.models.mixers.scan.mamba2 import Mamba2 as Mamba2
from scanmax.models.mixers.scan.multi_scale import MambaMultiScale as MambaMultiScale
from scanmax.models.mixers.scan.selective_channel import SelectiveChannel as SelectiveChannel
from scanmax.models.mixers.scan.ssd import NcSsd as NcSsd
from scanmax.models.mixers.scan.ssd import Ssd as Ssd
from scanmax.models.mixers.scan.wkv import Wkv as Wkv
from scanmax.models.mixers.scan.wkv import Wkv6 as Wkv6
from scanmax.models.mixers.spectral.adaptive_filter import AdaptiveFilter as AdaptiveFilter
from scanmax.models.mixers.spectral.fourier import Fourier as Fourier
from scanmax.models.mixers.spectral.global_filter import GlobalFilter as GlobalFilter
from scanmax.models.mixers.spectral.pooling import SpectralPooling as SpectralPooling
from scanmax.models.mixers.spectral.token_mixing import FourierTokens as FourierTokens
from scanmax.models.mixers.spectral.wavelet import WaveMix as WaveMix
from scanmax.models.mixers.tokens.slots import ContextCluster as ContextCluster
from scanmax.models.mixers.tokens.slots import Slots as Slots
from scanmax.models.mixers.tokens.slots import VisualTokens as VisualTokens
from scanmax.public import shown

MIXERS: dict[str, type[Mixer]] = {
    "adaptive_filter": AdaptiveFilter,
    "aggregated": AggregatedAttention,
    "alibi": Alibi,
    "attention": Attention,
    "base_conv": BaseConv,
    "ckconv": CkConv,
    "cond_conv": ConditionalConv,
    "context_cluster": ContextCluster,
    "conv_additive": ConvAdditive,
    "conv_projection": ConvProjection,
    "conv_share": ConvShare,
    "cosformer": Cosformer,
    "cosine": CosineAttention,
    "deformable": Deformable,
    "delta": Delta,
    "dilated_reparam": DilatedReparam,
    "dynamicconv": DynamicConv,
    "flexconv": FlexConv,
    "fourier": Fourier,
    "fourier_tokens": FourierTokens,
    "gated_attention": GatedAttention,
    "gated_delta": GatedDelta,
    "gla": Gla,
    "global_filter": GlobalFilter,
    "gn_conv": GnConv,
    "gpsa": Gpsa,
    "halo": HaloAttention,
    "head_tokens": HeadTokens,
    "heterogeneous": Heterogeneous,
    "hyena": Hyena,
    "hyper_zzw": HyperZzw,
    "hyper_zzw_local": HyperZzwLocal,
    "inception": Inception,
    "inline": Inline,
    "kan_attention": KanAttentionMixer,
    "kan_focal": KanFocalMixer,
    "lightconv": LightConv,
    "linear_attention": LinearAttention,
    "lkca": Lkca,
    "local_relation": LocalRelation,
    "long_conv": LongConv,
    "ls_conv": LsConv,
    "mala": Mala,
    "mamba": Mamba,
    "mamba2": Mamba2,
    "mamba2_four_way": Mamba2FourWay,
    "mamba_bidirectional": MambaBidirectional,
    "mamba_four_way": MambaFourWay,
    "mamba_multi_scale": MambaMultiScale,
    "mix_shift": MixShift,
    "mla": LatentAttention,
    "moh": MixtureOfHeads,
    "msa_conv": MsaConv,
    "multi_axis": MultiAxisMlp,
    "multi_order": MultiOrder,
    "nc_ssd": NcSsd,
    "neighborhood": NeighborhoodAttention,
    "one_way_conv": OneWayConv,
    "oversized": Oversized,
    "per_head_window": PerHeadWindow,
    "performer": Performer,
    "pooled": Pooled,
    "rala": Rala,
    "retention": Retention,
    "rmt": Manhattan,
    "rmt_decomposed": ManhattanDecomposed,
    "scale_aware": ScaleAware,
    "scaling": Scaling,
    "sgconv": SgConv,
    "selective_channel": SelectiveChannel,
    "shift_conv": ShiftConv,
    "shifted_window": ShiftedWindowAttention,
    "slots": Slots,
    "smp_reparam": PointReparam,
    "smpconv": SmpConv,
    "soft": Soft,
    "soft_causal": SoftCausal,
    "sparse_fixed": SparseFixed,
    "sparse_strided": SparseStrided,
    "spatial_reduction": SpatialReduction,
    "spectral_pooling": SpectralPooling,
    "ssa": SelectiveAttention,
    "ssd": Ssd,
    "tensor": Tensor,
    "token_mlp": TokenMlp,
    "visual_tokens": VisualTokens,
    "wavemix": WaveMix,
    "window": WindowAttention,
    "wkv": Wkv,
    "wkv6": Wkv6,
    "xca": CrossCovariance,
}


def create_mixer(kind: str, *, options: Mapping[str, Any] | None = None, **fields: Any) -> Mixer:
    """Builds a mixer of MIXERS.

    Args:
      kind: a name of MIXERS.
      options: fields of the mixer's module; they win over `fields`.
      **fields: the fields of every mixer: heads, prefix_tokens, use_bias, dtype, name, ...

    Returns:
      The module.

    Raises:
      UserError: an unknown name or option; the message lists near matches.

    Example:
      >>> create_mixer("attention", heads=4, options={"qk_norm": True}).qk_norm
      True
    """
    if kind not in MIXERS:
        raise UserError(f"unknown mixer {kind!r}; {suggest(kind, MIXERS)}")
    known = [field.name for field in dataclasses.fields(MIXERS[kind]) if field.init]
    for option in options or {}:
        if option not in known:
            raise UserError(f"mixer {kind!r} has no field {option!r}; {suggest(option, known, 30)}")
    return MIXERS[kind](**{**fields, **(options or {})})


def options_of(
    kind: str, mixer_options: Mapping[str, Mapping[str, Any]] | None
) -> Mapping[str, Any]:
    """What `mixer_options`, fields by the names of mixers, says of one; refuses unknown names.

    >>> dict(options_of("attention", {"attention": {"qk_norm": True}, "window": {}}))
    {'qk_norm': True}
    """
    for name in mixer_options or {}:
        if name not in MIXERS:
            raise UserError(f"mixer_options: unknown mixer {name!r}; {suggest(name, MIXERS)}")
    return (mixer_options or {}).get(kind, {})


def with_defaults(
    own: Mapping[str, Mapping[str, Any]], mixer_options: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Mapping[str, Any]]:
    """A host's own fields by the names of mixers, where `mixer_options` does not say otherwise.

    >>> with_defaults({"window": {"window_size": 7}}, {"window": {"shift": 2}, "xca": {}})
    {'window': {'window_size': 7, 'shift': 2}, 'xca': {}}
    """
    given = dict(mixer_options or {})
    return {name: {**own.get(name, {}), **given.get(name, {})} for name in {**own, **given}}


__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
