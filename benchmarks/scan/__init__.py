"""Recurrences: state-space duality, with decays and the delta rule, RWKV and modal state spaces."""
