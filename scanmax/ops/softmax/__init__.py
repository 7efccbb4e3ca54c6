"""Functions that turn logits into weights, and banks that correct them."""
