"""The plain equations, one per public op: same names and signatures, never jitted, written to be read.

They are the ground truth of the tests (in float64) and the place to look when a docstring is not enough.
"""
