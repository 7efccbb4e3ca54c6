"""Mixers over `scanmax.ops.local`."""
