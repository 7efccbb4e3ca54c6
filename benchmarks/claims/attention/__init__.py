"""Claims about what attention weighs."""
