"""The equations of `scanmax.ops.conv.conv2d`."""
