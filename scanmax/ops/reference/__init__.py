"""The plain equations, one per public op: same names and signatures, never jitted.

They are written to be read, and are the ground truth of the tests (in float64).
"""
