"""Mixers over `scanmax.ops.mlp`."""
