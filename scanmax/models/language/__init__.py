"""Language models: one family a file, with its VARIANTS table."""
