"""Writes scanmax/models/multiply_adds.py: what every registered model computes, traced once.

    python docs/make_multiply_adds.py

Tracing all of them takes minutes; `python -m scanmax.models list` reads the table. The registry's
tests hold each entry to a trace of its model.
"""

import pathlib

from scanmax.models import list_models
from scanmax.models.analysis import traced_multiply_adds

FILE = pathlib.Path(__file__).parent.parent / "scanmax/models/multiply_adds.py"
HEAD = '''"""Multiply-adds of every registered model for one default input.

Written by docs/make_multiply_adds.py; the registry's tests hold each to a trace of its model.
"""

MULTIPLY_ADDS = {
'''


def main() -> None:
    """Traces every model and writes the table."""
    rows = [f'    "{name}": {traced_multiply_adds(name):_},\n' for name in list_models()]
    FILE.write_text(HEAD + "".join(rows) + "}\n")


if __name__ == "__main__":
    main()
