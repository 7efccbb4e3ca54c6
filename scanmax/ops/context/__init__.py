"""One sequence over many devices: a ring of keys, heads exchanged, states passed on."""
