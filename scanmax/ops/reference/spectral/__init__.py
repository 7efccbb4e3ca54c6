"""Equations of `scanmax.ops.spectral`."""
