"""Mixers over `scanmax.ops.conv.conv2d`."""
