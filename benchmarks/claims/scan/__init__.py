"""Claims about recurrences."""
