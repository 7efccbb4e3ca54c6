"""The public operators: pure, jitted functions on arrays under one contract (docs/conventions.md).

Every name here has a twin in `scanmax.ops.reference`, the plain equation, with the same signature.
"""

from scanmax.ops.attention import attention_matrix as attention_matrix
from scanmax.ops.attention import dot_product_attention as dot_product_attention
from scanmax.ops.attention_cache import KVCache as KVCache
from scanmax.ops.attention_cache import attention_step as attention_step
from scanmax.ops.attention_cache import extend_kv_cache as extend_kv_cache
from scanmax.ops.attention_cache import init_kv_cache as init_kv_cache
from scanmax.ops.conv import conv2d as conv2d
from scanmax.ops.conv import depthwise_conv2d as depthwise_conv2d
from scanmax.ops.conv import patchify as patchify
from scanmax.ops.conv1d import causal_conv1d as causal_conv1d
from scanmax.ops.conv1d import causal_conv1d_step as causal_conv1d_step
from scanmax.ops.linear_attention import linear_attention as linear_attention
from scanmax.ops.linear_attention import linear_attention_matrix as linear_attention_matrix
from scanmax.ops.linear_attention import linear_attention_step as linear_attention_step
from scanmax.ops.norm import batch_norm as batch_norm
from scanmax.ops.norm import batch_statistics as batch_statistics
from scanmax.ops.norm import gated_rms_norm as gated_rms_norm
from scanmax.ops.norm import group_norm as group_norm
from scanmax.ops.norm import layer_norm as layer_norm
from scanmax.ops.norm import rms_norm as rms_norm
from scanmax.ops.normalizer import NORMALIZERS as NORMALIZERS
from scanmax.ops.normalizer import Normalizer as Normalizer
from scanmax.ops.normalizer import Sigmoid as Sigmoid
from scanmax.ops.normalizer import Softmax as Softmax
from scanmax.ops.normalizer import Stablemax as Stablemax
from scanmax.ops.normalizer import TwoPassSoftmax as TwoPassSoftmax
from scanmax.ops.position import resample_positions as resample_positions
from scanmax.ops.position import rotary as rotary
from scanmax.ops.position import rotary_2d as rotary_2d
from scanmax.ops.position import sincos_1d as sincos_1d
from scanmax.ops.position import sincos_2d as sincos_2d
from scanmax.ops.scan import diagonal_scan as diagonal_scan
from scanmax.ops.selective_scan import selective_scan as selective_scan
from scanmax.ops.selective_scan import selective_scan_matrix as selective_scan_matrix
from scanmax.ops.selective_scan import selective_scan_step as selective_scan_step
from scanmax.ops.softmax import extexp as extexp
from scanmax.ops.softmax import extexp_add as extexp_add
from scanmax.ops.softmax import extexp_sum as extexp_sum
from scanmax.ops.softmax import log_softmax as log_softmax
from scanmax.ops.softmax import log_stablemax as log_stablemax
from scanmax.ops.softmax import sigmoid_weights as sigmoid_weights
from scanmax.ops.softmax import softmax as softmax
from scanmax.ops.softmax import stablemax as stablemax
from scanmax.ops.ssm import nc_ssd as nc_ssd
from scanmax.ops.ssm import nc_ssd_matrix as nc_ssd_matrix
from scanmax.ops.ssm import ssd as ssd
from scanmax.ops.ssm import ssd_matrix as ssd_matrix
from scanmax.ops.ssm import ssd_step as ssd_step
