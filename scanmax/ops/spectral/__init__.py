"""Mixing in the domain of frequencies: global filters over maps."""
