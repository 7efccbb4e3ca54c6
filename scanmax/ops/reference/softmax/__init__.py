"""The equations of `scanmax.ops.softmax`."""
