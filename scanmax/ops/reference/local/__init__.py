"""The equations of `scanmax.ops.local`."""
