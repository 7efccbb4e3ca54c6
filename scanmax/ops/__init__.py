"""The public operators: pure, jitted functions on arrays under one contract (docs/conventions.md).

Every name here has a twin in `scanmax.ops.reference`, the plain equation, with the same signature.
"""
