"""The equations of `scanmax.ops.attention.dot_product`."""
