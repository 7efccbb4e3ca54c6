"""Architectures for sequences and series: one family a file, with its VARIANTS table."""
