"""Claims about softmax variants, and what trains with them."""
