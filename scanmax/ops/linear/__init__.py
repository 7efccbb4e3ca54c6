"""Attention in linear order: feature maps, and what stands for the softmax sum."""
