"""The equations of `scanmax.ops.tokens`."""
