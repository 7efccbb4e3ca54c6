"""Claims about sequences, series and their small tasks."""
