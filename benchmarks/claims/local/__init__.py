"""Claims about local and sparse attention."""
