"""The plain equations, one per public op: same names and signatures, never jitted.

They are written to be read, and are the ground truth of the tests (in float64).
"""

from scanmax.ops.reference.conv import conv2d as conv2d
from scanmax.ops.reference.conv import depthwise_conv2d as depthwise_conv2d
from scanmax.ops.reference.conv import patchify as patchify
from scanmax.ops.reference.norm import batch_norm as batch_norm
from scanmax.ops.reference.norm import batch_statistics as batch_statistics
from scanmax.ops.reference.norm import gated_rms_norm as gated_rms_norm
from scanmax.ops.reference.norm import group_norm as group_norm
from scanmax.ops.reference.norm import layer_norm as layer_norm
from scanmax.ops.reference.norm import rms_norm as rms_norm
from scanmax.ops.reference.position import resample_positions as resample_positions
from scanmax.ops.reference.position import rotary as rotary
from scanmax.ops.reference.position import rotary_2d as rotary_2d
from scanmax.ops.reference.position import sincos_1d as sincos_1d
from scanmax.ops.reference.position import sincos_2d as sincos_2d
