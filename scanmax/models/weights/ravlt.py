"""RAVLT: the names of the authors' checkpoints."""

from scanmax.models.weights.projected_pyramid import gated_table

TABLE = gated_table()
