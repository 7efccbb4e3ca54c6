"""Mixers over `scanmax.ops.attention.dot_product`."""
