"""Attention: the evaluation, its options, heads, across images, of higher order, by steps."""
