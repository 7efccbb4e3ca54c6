"""Mixers over `scanmax.ops.tokens`."""
