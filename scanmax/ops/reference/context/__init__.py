"""The equations of `scanmax.ops.context`."""
