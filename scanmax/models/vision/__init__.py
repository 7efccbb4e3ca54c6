"""Architectures for images: one family a file, with its VARIANTS table."""
