"""Recurrences: diagonal, with a matrix state, selective, by the delta rule, over maps."""
