"""Convolutions: of maps, as long as their input, of sentences, and what gates and shifts them."""
