"""Dot-product attention: how it is evaluated, and what changes its weights."""
