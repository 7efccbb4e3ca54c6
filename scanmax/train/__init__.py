"""One sharded trainer: `python -m scanmax.train --config=FILE --workdir=DIR`."""
