"""Writes scanmax/models/multiply_adds.py: what every registered model computes, traced once.

    python docs/make_multiply_adds.py [PATTERN]    # of the names that fit, the others stay

Tracing all of them takes minutes; `python -m scanmax.models list` reads the table. The registry's
tests hold each entry to a trace of its model.
"""

import pathlib
import sys

from scanmax.models import list_models
from scanmax.models.analysis import traced_multiply_adds
from scanmax.models.multiply_adds import MULTIPLY_ADDS

FILE = pathlib.Path(__file__).parent.parent / "scanmax/models/multiply_adds.py"
HEAD = '''"""Multiply-adds of every registered model for one default input.

Written by docs/make_multiply_adds.py; the registry's tests hold each to a trace of its model.
"""

MULTIPLY_ADDS = {
'''


def main(pattern: str = "*") -> None:
    """Traces the models and writes the table."""
    counted = {name: traced_multiply_adds(name) for name in list_models(pattern)}
    known = {name: MULTIPLY_ADDS[name] for name in list_models() if name in MULTIPLY_ADDS}
    rows = (f'    "{name}": {count:_},\n' for name, count in sorted((known | counted).items()))
    FILE.write_text(HEAD + "".join(rows) + "}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
