"""Fewer tokens: assignment, clustering, merging, pooling."""
