"""Mamba: the names of transformers, and those of the original release (one letter apart)."""

from scanmax.models.weights.table import KeyTable, Row, causal_conv, linear

_BLOCK = r"backbone\.layers\.(\d+)\."
_OURS = "params/block_{0:02d}/"

TABLE = KeyTable(
    rows=(
        Row(r"backbone\.embeddings?\.weight", "params/embed/embedding"),
        Row(_BLOCK + r"norm\.weight", _OURS + "norm1/scale"),
        Row(_BLOCK + r"mixer\.(A_log|D)", _OURS + "mixer/ssm/{1}"),
        Row(_BLOCK + r"mixer\.conv1d\.weight", _OURS + "mixer/conv_kernel", causal_conv),
        Row(_BLOCK + r"mixer\.conv1d\.bias", _OURS + "mixer/conv_bias"),
        Row(_BLOCK + r"mixer\.(in|out)_proj\.weight", _OURS + "mixer/{1}_proj/kernel", linear),
        Row(_BLOCK + r"mixer\.(in|out)_proj\.bias", _OURS + "mixer/{1}_proj/bias"),
        Row(_BLOCK + r"mixer\.(x|dt)_proj\.weight", _OURS + "mixer/ssm/{1}_proj/kernel", linear),
        # added behind the softplus's argument: part of the scan here
        Row(_BLOCK + r"mixer\.dt_proj\.bias", _OURS + "mixer/ssm/dt_bias"),
        Row(r"backbone\.norm_f\.weight", "params/norm/scale"),
        # An untied model has a head of its own; a tied one reads the table.
        Row(r"lm_head\.weight", "params/head/kernel", linear),
        Row(r"lm_head\.weight", "params/embed/embedding", tied=True),
    ),
    layouts={"transformers": "first", "authors": "last"},
)
