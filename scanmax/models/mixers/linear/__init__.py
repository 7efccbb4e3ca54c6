"""Mixers over `scanmax.ops.linear`."""
