"""MoH-ViT: the names of the authors' checkpoints, TransNeXt's and those of the gates."""

import dataclasses

from scanmax.models.weights import transnext
from scanmax.models.weights.pvt_v2 import BLOCK, of_block
from scanmax.models.weights.table import Row, linear

# All heads but the shared, the two kinds, the shared.
_GATES = {"wg": "router", "wg_0": "balance", "wg_1": "shared"}

TABLE = dataclasses.replace(
    transnext.TABLE,
    rows=(
        *(
            Row(BLOCK + rf"attn\.{name}\.weight", of_block(f"mixer/{ours}/kernel"), linear)
            for name, ours in _GATES.items()
        ),
        *transnext.TABLE.rows,
    ),
)
