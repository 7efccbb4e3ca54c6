"""The public operators: pure, jitted functions on arrays under one contract (docs/conventions.md).

Every name here has a twin in `scanmax.ops.reference`, the plain equation, with the same signature.
"""

import types as _types

from scanmax.ops.attention.cache import KVCache as KVCache
from scanmax.ops.attention.cache import attention_step as attention_step
from scanmax.ops.attention.cache import extend_kv_cache as extend_kv_cache
from scanmax.ops.attention.cache import init_kv_cache as init_kv_cache
from scanmax.ops.attention.convolution import (
    convolution_attention_weights as convolution_attention_weights,
)
from scanmax.ops.attention.cosine import (
    cosine_support_attention as cosine_support_attention,
)
from scanmax.ops.attention.cosine import (
    length_scaled_cosine_attention as length_scaled_cosine_attention,
)
from scanmax.ops.attention.cosine import (
    length_scaled_cosine_attention_matrix as length_scaled_cosine_attention_matrix,
)
from scanmax.ops.attention.cross import attention_rollout as attention_rollout
from scanmax.ops.attention.cross import conditional_cross_attention as conditional_cross_attention
from scanmax.ops.attention.cross import global_local_cross_attention as global_local_cross_attention
from scanmax.ops.attention.cross import pairwise_cross_attention as pairwise_cross_attention
from scanmax.ops.attention.deformable import deformable_attention as deformable_attention
from scanmax.ops.attention.distance import alibi_slopes as alibi_slopes
from scanmax.ops.attention.distance import decay_mask_1d as decay_mask_1d
from scanmax.ops.attention.distance import decay_mask_2d as decay_mask_2d
from scanmax.ops.attention.distance import distance_attention as distance_attention
from scanmax.ops.attention.distance import distance_attention_matrix as distance_attention_matrix
from scanmax.ops.attention.dot_product import attention_matrix as attention_matrix
from scanmax.ops.attention.dot_product import dot_product_attention as dot_product_attention
from scanmax.ops.attention.gpsa import gpsa as gpsa
from scanmax.ops.attention.gpsa import gpsa_matrix as gpsa_matrix
from scanmax.ops.attention.gpsa import gpsa_position_weight as gpsa_position_weight
from scanmax.ops.attention.head_gates import head_load_balance as head_load_balance
from scanmax.ops.attention.head_gates import moh_gates as moh_gates
from scanmax.ops.attention.head_gates import moh_quantized_gates as moh_quantized_gates
from scanmax.ops.attention.head_gates import moh_query_logits as moh_query_logits
from scanmax.ops.attention.heterogeneous import heterogeneous_attention as heterogeneous_attention
from scanmax.ops.attention.heterogeneous import (
    heterogeneous_attention_matrix as heterogeneous_attention_matrix,
)
from scanmax.ops.attention.latent import LatentCache as LatentCache
from scanmax.ops.attention.latent import extend_latent_cache as extend_latent_cache
from scanmax.ops.attention.latent import init_latent_cache as init_latent_cache
from scanmax.ops.attention.latent import latent_attention as latent_attention
from scanmax.ops.attention.latent import latent_attention_matrix as latent_attention_matrix
from scanmax.ops.attention.latent import latent_attention_step as latent_attention_step
from scanmax.ops.attention.manhattan import manhattan_attention as manhattan_attention
from scanmax.ops.attention.manhattan import manhattan_attention_matrix as manhattan_attention_matrix
from scanmax.ops.attention.manhattan import manhattan_log_decay as manhattan_log_decay
from scanmax.ops.attention.moh import moh_attention as moh_attention
from scanmax.ops.attention.moh import moh_attention_matrix as moh_attention_matrix
from scanmax.ops.attention.normalizer import NORMALIZERS as NORMALIZERS
from scanmax.ops.attention.normalizer import Entmax15 as Entmax15
from scanmax.ops.attention.normalizer import Normalizer as Normalizer
from scanmax.ops.attention.normalizer import ReluSoftmax as ReluSoftmax
from scanmax.ops.attention.normalizer import Reweighted as Reweighted
from scanmax.ops.attention.normalizer import Sigmoid as Sigmoid
from scanmax.ops.attention.normalizer import Softmax as Softmax
from scanmax.ops.attention.normalizer import SoftmaxOne as SoftmaxOne
from scanmax.ops.attention.normalizer import Softplus as Softplus
from scanmax.ops.attention.normalizer import SoftplusReweighted as SoftplusReweighted
from scanmax.ops.attention.normalizer import Sparsemax as Sparsemax
from scanmax.ops.attention.normalizer import SquaredRelu as SquaredRelu
from scanmax.ops.attention.normalizer import Stablemax as Stablemax
from scanmax.ops.attention.normalizer import Threshold as Threshold
from scanmax.ops.attention.normalizer import TwoPassSoftmax as TwoPassSoftmax
from scanmax.ops.attention.normalizer import TwoQuad as TwoQuad
from scanmax.ops.attention.relative_position import log_spaced_coordinates as log_spaced_coordinates
from scanmax.ops.attention.relative_position import relative_position_bias as relative_position_bias
from scanmax.ops.attention.relative_position import (
    relative_position_index as relative_position_index,
)
from scanmax.ops.attention.selective import selective_attention as selective_attention
from scanmax.ops.attention.selective import selective_attention_matrix as selective_attention_matrix
from scanmax.ops.attention.selective import selective_temperature as selective_temperature
from scanmax.ops.attention.soft import newton_pinv as newton_pinv
from scanmax.ops.attention.soft import soft_attention as soft_attention
from scanmax.ops.attention.soft import soft_attention_matrix as soft_attention_matrix
from scanmax.ops.attention.soft_causal import soft_causal_attention as soft_causal_attention
from scanmax.ops.attention.soft_causal import (
    soft_causal_attention_matrix as soft_causal_attention_matrix,
)
from scanmax.ops.attention.tensor import khatri_rao as khatri_rao
from scanmax.ops.attention.tensor import tensor_attention as tensor_attention
from scanmax.ops.attention.tensor import tensor_attention_weights as tensor_attention_weights
from scanmax.ops.attention.tensor_polynomial import tensor_attention_poly as tensor_attention_poly
from scanmax.ops.attention.tensor_polynomial import (
    tensor_attention_poly_step as tensor_attention_poly_step,
)
from scanmax.ops.attention.wait_k import average_lagging as average_lagging
from scanmax.ops.attention.wait_k import wait_k_mask as wait_k_mask
from scanmax.ops.channels.attention import cbam_channel_gate as cbam_channel_gate
from scanmax.ops.channels.attention import cbam_spatial_gate as cbam_spatial_gate
from scanmax.ops.channels.attention import channel_summary as channel_summary
from scanmax.ops.channels.attention import (
    efficient_channel_attention as efficient_channel_attention,
)
from scanmax.ops.channels.attention import pkcam as pkcam
from scanmax.ops.channels.attention import squeeze_excite as squeeze_excite
from scanmax.ops.channels.dropless import dropless_experts as dropless_experts
from scanmax.ops.channels.experts import combine_experts as combine_experts
from scanmax.ops.channels.experts import dispatch_to_experts as dispatch_to_experts
from scanmax.ops.channels.experts import expert_gates as expert_gates
from scanmax.ops.channels.memory import product_key_memory as product_key_memory
from scanmax.ops.channels.memory import product_key_top_k as product_key_top_k
from scanmax.ops.channels.memory import top_k_activation as top_k_activation
from scanmax.ops.channels.routing import entropy_balance as entropy_balance
from scanmax.ops.channels.routing import expert_load as expert_load
from scanmax.ops.channels.routing import noisy_logits as noisy_logits
from scanmax.ops.channels.routing import squared_variation as squared_variation
from scanmax.ops.channels.selective import selective_kernel as selective_kernel
from scanmax.ops.channels.wave import wave_aggregation as wave_aggregation
from scanmax.ops.context.attention import context_attention as context_attention
from scanmax.ops.context.attention import zigzag_order as zigzag_order
from scanmax.ops.context.scan import context_diagonal_scan as context_diagonal_scan
from scanmax.ops.context.scan import context_linear_attention as context_linear_attention
from scanmax.ops.context.scan import context_selective_scan as context_selective_scan
from scanmax.ops.context.scan import context_ssd as context_ssd
from scanmax.ops.conv.aggregation import small_kernel_aggregation as small_kernel_aggregation
from scanmax.ops.conv.conditional import cond_conv2d as cond_conv2d
from scanmax.ops.conv.conv1d import causal_conv1d as causal_conv1d
from scanmax.ops.conv.conv1d import causal_conv1d_step as causal_conv1d_step
from scanmax.ops.conv.conv2d import conv2d as conv2d
from scanmax.ops.conv.conv2d import depthwise_conv2d as depthwise_conv2d
from scanmax.ops.conv.conv2d import patchify as patchify
from scanmax.ops.conv.gated import recursive_gate as recursive_gate
from scanmax.ops.conv.grid import causal_conv2d as causal_conv2d
from scanmax.ops.conv.hyper_zzw import hyper_kernel as hyper_kernel
from scanmax.ops.conv.hyper_zzw import hyper_zzw as hyper_zzw
from scanmax.ops.conv.inception import (
    inception_depthwise_conv2d as inception_depthwise_conv2d,
)
from scanmax.ops.conv.lightweight import dynamic_conv as dynamic_conv
from scanmax.ops.conv.lightweight import dynamic_conv_matrix as dynamic_conv_matrix
from scanmax.ops.conv.lightweight import dynamic_conv_step as dynamic_conv_step
from scanmax.ops.conv.lightweight import lightweight_conv as lightweight_conv
from scanmax.ops.conv.lightweight import lightweight_conv_step as lightweight_conv_step
from scanmax.ops.conv.long import fft_conv as fft_conv
from scanmax.ops.conv.long import fft_conv_dense as fft_conv_dense
from scanmax.ops.conv.long import long_conv_matrix as long_conv_matrix
from scanmax.ops.conv.long import long_conv_step as long_conv_step
from scanmax.ops.conv.long_kernels import point_kernel as point_kernel
from scanmax.ops.conv.long_kernels import sgconv_kernel as sgconv_kernel
from scanmax.ops.conv.long_kernels import smooth_kernel as smooth_kernel
from scanmax.ops.conv.long_kernels import squash_kernel as squash_kernel
from scanmax.ops.conv.monarch import monarch_fft as monarch_fft
from scanmax.ops.conv.one_way import cp_conv2d as cp_conv2d
from scanmax.ops.conv.oversized import oversized_conv2d as oversized_conv2d
from scanmax.ops.conv.pairwise import gated_pairwise_pool as gated_pairwise_pool
from scanmax.ops.conv.reparameterized import fold_batch_norm as fold_batch_norm
from scanmax.ops.conv.reparameterized import merge_dilated_kernels as merge_dilated_kernels
from scanmax.ops.conv.scale_aware import mixed_head_conv2d as mixed_head_conv2d
from scanmax.ops.conv.scale_aware import scale_aware_aggregation as scale_aware_aggregation
from scanmax.ops.conv.sentences import dynamic_k as dynamic_k
from scanmax.ops.conv.sentences import fold_rows as fold_rows
from scanmax.ops.conv.sentences import wide_conv1d as wide_conv1d
from scanmax.ops.conv.shared import shared_conv2d as shared_conv2d
from scanmax.ops.conv.shift import shift_eight as shift_eight
from scanmax.ops.conv.space_to_depth import depth_to_space as depth_to_space
from scanmax.ops.conv.space_to_depth import space_to_depth as space_to_depth
from scanmax.ops.conv.space_to_depth import spd_conv as spd_conv
from scanmax.ops.conv.token_shift import quarter_shift as quarter_shift
from scanmax.ops.conv.token_shift import token_shift as token_shift
from scanmax.ops.conv.transposed import conv_transpose2d as conv_transpose2d
from scanmax.ops.evonorm import evonorm_b0 as evonorm_b0
from scanmax.ops.evonorm import evonorm_b1 as evonorm_b1
from scanmax.ops.evonorm import evonorm_b2 as evonorm_b2
from scanmax.ops.evonorm import evonorm_s0 as evonorm_s0
from scanmax.ops.evonorm import evonorm_s1 as evonorm_s1
from scanmax.ops.evonorm import evonorm_s2 as evonorm_s2
from scanmax.ops.linear.attention import linear_attention as linear_attention
from scanmax.ops.linear.attention import linear_attention_matrix as linear_attention_matrix
from scanmax.ops.linear.attention import linear_attention_step as linear_attention_step
from scanmax.ops.linear.cross_covariance import (
    cross_covariance_attention as cross_covariance_attention,
)
from scanmax.ops.linear.cross_covariance import cross_covariance_matrix as cross_covariance_matrix
from scanmax.ops.linear.feature_maps import FEATURE_MAPS as FEATURE_MAPS
from scanmax.ops.linear.feature_maps import cosine_features as cosine_features
from scanmax.ops.linear.feature_maps import orthogonal_random_features as orthogonal_random_features
from scanmax.ops.linear.feature_maps import positive_random_features as positive_random_features
from scanmax.ops.linear.inline import inline_attention as inline_attention
from scanmax.ops.linear.inline import inline_attention_matrix as inline_attention_matrix
from scanmax.ops.linear.inline import inline_attention_step as inline_attention_step
from scanmax.ops.linear.mala import mala_attention as mala_attention
from scanmax.ops.linear.mala import mala_attention_matrix as mala_attention_matrix
from scanmax.ops.linear.mala import mala_attention_step as mala_attention_step
from scanmax.ops.linear.rala import rala_attention as rala_attention
from scanmax.ops.linear.rala import rala_attention_matrix as rala_attention_matrix
from scanmax.ops.linear.scaling import scaling_attention as scaling_attention
from scanmax.ops.linear.scaling import scaling_attention_matrix as scaling_attention_matrix
from scanmax.ops.linear.scaling import scaling_attention_step as scaling_attention_step
from scanmax.ops.local.aggregated import aggregated_attention as aggregated_attention
from scanmax.ops.local.aggregated import (
    aggregated_attention_matrix as aggregated_attention_matrix,
)
from scanmax.ops.local.conv_additive import conv_additive_attention as conv_additive_attention
from scanmax.ops.local.cyclic_shift import (
    multi_directional_cyclic_shift as multi_directional_cyclic_shift,
)
from scanmax.ops.local.lkca import lkca as lkca
from scanmax.ops.local.lkca import lkca_matrix as lkca_matrix
from scanmax.ops.local.neighborhood import msa_conv as msa_conv
from scanmax.ops.local.neighborhood import msa_conv_matrix as msa_conv_matrix
from scanmax.ops.local.neighborhood import neighborhood_attention as neighborhood_attention
from scanmax.ops.local.neighborhood import (
    neighborhood_attention_matrix as neighborhood_attention_matrix,
)
from scanmax.ops.local.per_head_window import per_head_window_attention as per_head_window_attention
from scanmax.ops.local.per_head_window import (
    per_head_window_attention_matrix as per_head_window_attention_matrix,
)
from scanmax.ops.local.per_head_window import (
    per_head_window_attention_step as per_head_window_attention_step,
)
from scanmax.ops.local.pooled import pool_tokens as pool_tokens
from scanmax.ops.local.pooled import spatial_reduction_attention as spatial_reduction_attention
from scanmax.ops.local.pooled import (
    spatial_reduction_attention_matrix as spatial_reduction_attention_matrix,
)
from scanmax.ops.local.sparse import sparse_attention as sparse_attention
from scanmax.ops.local.sparse import sparse_attention_matrix as sparse_attention_matrix
from scanmax.ops.local.sparse import sparse_attention_step as sparse_attention_step
from scanmax.ops.local.sparse import sparse_pattern as sparse_pattern
from scanmax.ops.local.window import halo_attention as halo_attention
from scanmax.ops.local.window import halo_attention_matrix as halo_attention_matrix
from scanmax.ops.local.window import window_attention as window_attention
from scanmax.ops.local.window import window_attention_matrix as window_attention_matrix
from scanmax.ops.mlp.basis import gram_basis as gram_basis
from scanmax.ops.mlp.basis import polynomial_basis as polynomial_basis
from scanmax.ops.mlp.basis import radial_basis as radial_basis
from scanmax.ops.mlp.basis import switch_basis as switch_basis
from scanmax.ops.mlp.basis import wavelet_basis as wavelet_basis
from scanmax.ops.mlp.bspline import bspline_basis as bspline_basis
from scanmax.ops.mlp.bspline import extend_knots as extend_knots
from scanmax.ops.mlp.bspline import fit_bspline as fit_bspline
from scanmax.ops.mlp.bspline import sample_knots as sample_knots
from scanmax.ops.mlp.hypernetwork import mip_encode as mip_encode
from scanmax.ops.mlp.kan import kan_conv1d as kan_conv1d
from scanmax.ops.mlp.kan import kan_conv2d as kan_conv2d
from scanmax.ops.mlp.kan import kan_conv3d as kan_conv3d
from scanmax.ops.mlp.kan import kan_linear as kan_linear
from scanmax.ops.mlp.mix_shift import mix_shift as mix_shift
from scanmax.ops.mlp.multi_axis import block_mix as block_mix
from scanmax.ops.mlp.multi_axis import grid_mix as grid_mix
from scanmax.ops.mlp.perceptron import token_mlp as token_mlp
from scanmax.ops.mlp.random_features import bundle_dense as bundle_dense
from scanmax.ops.mlp.random_features import fit_dense as fit_dense
from scanmax.ops.mlp.random_features import fourier_samples as fourier_samples
from scanmax.ops.mlp.random_features import relu_random_features as relu_random_features
from scanmax.ops.mlp.random_features import universal_random_features as universal_random_features
from scanmax.ops.mlp.random_features import universal_random_weights as universal_random_weights
from scanmax.ops.mlp.rational import group_rational as group_rational
from scanmax.ops.mlp.selectable import select_functions as select_functions
from scanmax.ops.mlp.selectable import selection_weights as selection_weights
from scanmax.ops.norm import batch_norm as batch_norm
from scanmax.ops.norm import batch_statistics as batch_statistics
from scanmax.ops.norm import gated_rms_norm as gated_rms_norm
from scanmax.ops.norm import global_response_norm as global_response_norm
from scanmax.ops.norm import group_norm as group_norm
from scanmax.ops.norm import instance_batch_norm as instance_batch_norm
from scanmax.ops.norm import layer_norm as layer_norm
from scanmax.ops.norm import masked_layer_norm as masked_layer_norm
from scanmax.ops.norm import rms_norm as rms_norm
from scanmax.ops.position import fourier_positions as fourier_positions
from scanmax.ops.position import resample_positions as resample_positions
from scanmax.ops.position import rotary as rotary
from scanmax.ops.position import rotary_2d as rotary_2d
from scanmax.ops.position import sincos_1d as sincos_1d
from scanmax.ops.position import sincos_2d as sincos_2d
from scanmax.ops.scan.cross import cross_merge as cross_merge
from scanmax.ops.scan.cross import cross_scan as cross_scan
from scanmax.ops.scan.cross import multi_scale_merge as multi_scale_merge
from scanmax.ops.scan.cross import multi_scale_scan as multi_scale_scan
from scanmax.ops.scan.delta_rule import delta_rule as delta_rule
from scanmax.ops.scan.delta_rule import delta_rule_matrix as delta_rule_matrix
from scanmax.ops.scan.delta_rule import delta_rule_step as delta_rule_step
from scanmax.ops.scan.diagonal import diagonal_scan as diagonal_scan
from scanmax.ops.scan.modal import hankel_order as hankel_order
from scanmax.ops.scan.modal import hankel_singular_values as hankel_singular_values
from scanmax.ops.scan.modal import modal_ssm as modal_ssm
from scanmax.ops.scan.modal import modal_ssm_filter as modal_ssm_filter
from scanmax.ops.scan.modal import modal_ssm_matrix as modal_ssm_matrix
from scanmax.ops.scan.modal import modal_ssm_step as modal_ssm_step
from scanmax.ops.scan.selective import selective_scan as selective_scan
from scanmax.ops.scan.selective import selective_scan_matrix as selective_scan_matrix
from scanmax.ops.scan.selective import selective_scan_step as selective_scan_step
from scanmax.ops.scan.ssd import nc_ssd as nc_ssd
from scanmax.ops.scan.ssd import nc_ssd_matrix as nc_ssd_matrix
from scanmax.ops.scan.ssd import ssd as ssd
from scanmax.ops.scan.ssd import ssd_matrix as ssd_matrix
from scanmax.ops.scan.ssd import ssd_step as ssd_step
from scanmax.ops.scan.wkv import wkv as wkv
from scanmax.ops.scan.wkv import wkv_matrix as wkv_matrix
from scanmax.ops.scan.wkv import wkv_step as wkv_step
from scanmax.ops.scan.wkv6 import wkv6 as wkv6
from scanmax.ops.scan.wkv6 import wkv6_matrix as wkv6_matrix
from scanmax.ops.scan.wkv6 import wkv6_step as wkv6_step
from scanmax.ops.softmax.cross_entropy import linear_cross_entropy as linear_cross_entropy
from scanmax.ops.softmax.hubness import dual_inverted_softmax as dual_inverted_softmax
from scanmax.ops.softmax.hubness import hubness as hubness
from scanmax.ops.softmax.hubness import inverted_softmax as inverted_softmax
from scanmax.ops.softmax.hubness import k_occurrence as k_occurrence
from scanmax.ops.softmax.positive import relu_softmax as relu_softmax
from scanmax.ops.softmax.positive import reweight_power as reweight_power
from scanmax.ops.softmax.positive import softmax_one as softmax_one
from scanmax.ops.softmax.positive import softplus_softmax as softplus_softmax
from scanmax.ops.softmax.positive import squared_relu_softmax as squared_relu_softmax
from scanmax.ops.softmax.positive import two_quad as two_quad
from scanmax.ops.softmax.sinkhorn import sinkhorn as sinkhorn
from scanmax.ops.softmax.softmax import extexp as extexp
from scanmax.ops.softmax.softmax import extexp_add as extexp_add
from scanmax.ops.softmax.softmax import extexp_sum as extexp_sum
from scanmax.ops.softmax.softmax import log_softmax as log_softmax
from scanmax.ops.softmax.softmax import log_stablemax as log_stablemax
from scanmax.ops.softmax.softmax import sigmoid_weights as sigmoid_weights
from scanmax.ops.softmax.softmax import softmax as softmax
from scanmax.ops.softmax.softmax import stablemax as stablemax
from scanmax.ops.softmax.sparse import entmax15 as entmax15
from scanmax.ops.softmax.sparse import sparsemax as sparsemax
from scanmax.ops.spectral.adaptive_filter import (
    adaptive_frequency_filter as adaptive_frequency_filter,
)
from scanmax.ops.spectral.fourier import cp_fourier_conv2d as cp_fourier_conv2d
from scanmax.ops.spectral.fourier import fourier_conv2d as fourier_conv2d
from scanmax.ops.spectral.fourier import tucker_fourier_conv2d as tucker_fourier_conv2d
from scanmax.ops.spectral.global_filter import global_filter as global_filter
from scanmax.ops.spectral.global_filter import resample_filter as resample_filter
from scanmax.ops.spectral.pooling import spectral_pooling as spectral_pooling
from scanmax.ops.spectral.token_mixing import fourier_token_mixing as fourier_token_mixing
from scanmax.ops.spectral.wavelet import haar_dwt2 as haar_dwt2
from scanmax.ops.spectral.wavelet import haar_idwt2 as haar_idwt2
from scanmax.ops.tokens.assignment import aggregate_tokens as aggregate_tokens
from scanmax.ops.tokens.assignment import dispatch_tokens as dispatch_tokens
from scanmax.ops.tokens.assignment import set_pool as set_pool
from scanmax.ops.tokens.assignment import slot_logits as slot_logits
from scanmax.ops.tokens.assignment import slot_matrix as slot_matrix
from scanmax.ops.tokens.clustering import context_cluster as context_cluster
from scanmax.ops.tokens.clustering import context_cluster_matrix as context_cluster_matrix
from scanmax.ops.tokens.clustering import token_clustering as token_clustering
from scanmax.ops.tokens.clustering import token_reconstruction as token_reconstruction
from scanmax.ops.tokens.k_max import k_max_pool as k_max_pool
from scanmax.ops.tokens.kmeans import kmeans_cross_attention as kmeans_cross_attention
from scanmax.ops.tokens.kmeans import (
    kmeans_cross_attention_matrix as kmeans_cross_attention_matrix,
)
from scanmax.ops.tokens.merging import bipartite_soft_matching as bipartite_soft_matching
from scanmax.ops.tokens.merging import fuse_tokens as fuse_tokens
from scanmax.ops.tokens.merging import merge_attention as merge_attention
from scanmax.ops.tokens.merging import merge_tokens as merge_tokens
from scanmax.ops.tokens.pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
from scanmax.ops.tokens.reorganize import token_reorganize as token_reorganize

# The families are packages of this one, but no public names: importing one of them set the name
# `softmax` to a package before the op took it above, and no later import sets it again.
__all__ = [
    _name
    for _name, _value in sorted(globals().items())
    if not _name.startswith("_") and not isinstance(_value, _types.ModuleType)
]


def __dir__() -> list[str]:
    return __all__
