"""MLP-KAN: the names of the authors' modules; experts are apart there, and arrays of them here."""

import flax.linen as nn

from scanmax.models.weights import vit
from scanmax.models.weights.table import KeyTable, Row, linear, linear_of_heads

_PART = r"blocks\.(\d+)\.kan\."
_OURS = "params/block_{0:02d}/mlp/"


def table(model: nn.Module) -> KeyTable:
    """The table of a model of that many experts of either kind."""
    experts = model.experts
    mlps = experts.num_experts - experts.kans
    rows = [Row(_PART + r"gate\.weight", _OURS + "router/kernel", linear)]
    for e in range(mlps):
        name = _PART + rf"experts\.{e}\.fc([12])\."
        rows.append(Row(name + "weight", _OURS + "fc{1}_kernel", linear, part=(e, 0)))
        rows.append(Row(name + "bias", _OURS + "fc{1}_bias", part=(e, 0)))
    for e in range(experts.kans):
        for layer in (0, 1):
            name, own = _PART + rf"experts\.{mlps + e}\.layers\.{layer}\.", layer + 1
            rows += [
                Row(name + rf"layernorm\.{theirs}", f"{_OURS}norm_{ours}{own}", part=(e, 0))
                for theirs, ours in (("weight", "scale"), ("bias", "bias"))
            ]
            rows.append(
                Row(
                    name + r"spline_linear\.weight",
                    f"{_OURS}coefficients{own}",
                    linear_of_heads,
                    part=(e, 0),
                )
            )
            # Centers, which are not learned.
            rows.append(Row(name + r"rbf\.grid", ()))
    # MLPs that the authors' blocks keep and do not use.
    rows.append(Row(r"blocks\.\d+\.mlp\.fc[12]\.(?:weight|bias)", ()))
    return KeyTable(
        rows=(*rows, *vit.TABLE.rows),
        head=vit.TABLE.head,
        positions=vit.TABLE.positions,
        stem=vit.TABLE.stem,
        layouts={"authors": "first"},
    )
