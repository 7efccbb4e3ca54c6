"""Convolutions in one and two dimensions, long ones and their kernels, shifts."""
