"""Mixers over `scanmax.ops.scan.diagonal`."""
