"""The equations of `scanmax.ops.linear`."""
