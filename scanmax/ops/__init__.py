"""The public operators: pure, jitted functions on arrays under one contract (docs/conventions.md).

Every name here has a twin in `scanmax.ops.reference`, the plain equation, with the same signature.
"""

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
from scanmax.ops.position import resample_positions as resample_positions
from scanmax.ops.position import rotary as rotary
from scanmax.ops.position import rotary_2d as rotary_2d
from scanmax.ops.position import sincos_1d as sincos_1d
from scanmax.ops.position import sincos_2d as sincos_2d
from scanmax.ops.scan import diagonal_scan as diagonal_scan
from scanmax.ops.selective_scan import selective_scan as selective_scan
from scanmax.ops.selective_scan import selective_scan_matrix as selective_scan_matrix
from scanmax.ops.selective_scan import selective_scan_step as selective_scan_step
from scanmax.ops.ssm import nc_ssd as nc_ssd
from scanmax.ops.ssm import nc_ssd_matrix as nc_ssd_matrix
from scanmax.ops.ssm import ssd as ssd
from scanmax.ops.ssm import ssd_matrix as ssd_matrix
from scanmax.ops.ssm import ssd_step as ssd_step
