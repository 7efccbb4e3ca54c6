"""Modules between a layer and a model: gates of channels, experts, tokens, kernels."""
