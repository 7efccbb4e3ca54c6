"""Equations of `scanmax.ops.mlp`."""
