"""The public operators: pure, jitted functions on arrays under one contract (docs/conventions.md).

Every name here has a twin in `scanmax.ops.reference`, the plain equation, with the same signature.
"""

from scanmax.ops.norm import batch_norm as batch_norm
from scanmax.ops.norm import batch_statistics as batch_statistics
from scanmax.ops.norm import gated_rms_norm as gated_rms_norm
from scanmax.ops.norm import group_norm as group_norm
from scanmax.ops.norm import layer_norm as layer_norm
from scanmax.ops.norm import rms_norm as rms_norm
