"""`python -m scanmax.papers` prints docs/papers.md."""

import sys

from scanmax.cli import run_main
from scanmax.papers import table

if __name__ == "__main__":
    # Printed within, so that a reader who has seen enough, as `| head`, ends it quietly.
    sys.exit(run_main(lambda _: print(table(), flush=True)))
