"""Attention that reads few keys: windows, neighbourhoods, sparse patterns, pooled keys."""
