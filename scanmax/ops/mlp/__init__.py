"""Mixing without attention: splines, polynomials and wavelets on edges, rational functions."""
