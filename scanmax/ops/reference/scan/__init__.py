"""The equations of `scanmax.ops.scan.diagonal`."""
