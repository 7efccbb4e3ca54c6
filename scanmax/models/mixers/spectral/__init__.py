"""Mixers over `scanmax.ops.spectral`."""
