"""Models of text, of the next token or of the whole: one family a file, with its VARIANTS table."""
