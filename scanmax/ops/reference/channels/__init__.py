"""The equations of `scanmax.ops.channels`."""
