"""KAT: the names of the authors' checkpoints, timm's but for the rational functions."""

import dataclasses

from scanmax.models.weights import vit
from scanmax.models.weights.table import Row

_FUNCTION = r"blocks\.(\d+)\.mlp\.act([12])\.weight_(numerator|denominator)"

TABLE = dataclasses.replace(
    vit.TABLE,
    rows=(Row(_FUNCTION, "params/block_{0:02d}/mlp/act{1}/{2}"), *vit.TABLE.rows),
    layouts={"authors": "first"},
)
