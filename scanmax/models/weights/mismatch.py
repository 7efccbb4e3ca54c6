"""What does not fit, in one notation: both names of an array, and the nearest of those not used."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from scanmax.models.weights.layout import names_of
from scanmax.models.weights.sources import Tensors
from scanmax.models.weights.table import KeyTable, Problems, Shape

# More lines than these are of another model: a nearest name says nothing, and takes long to find.
COMPARED = 40
UNKNOWN = "no row of the key table knows this tensor"
UNFILLED = "no tensor fills it"
ABSENT = "the model has no "


def explained(
    problems: Problems, tensors: Tensors, table: KeyTable | None, shapes: Mapping[str, Shape]
) -> Problems:
    """Lines that say what the source calls an array of ours, and which name it may have meant.

    Args:
      problems: of `convert`.
      tensors: of the source, by their bare names.
      table: of the model's family; None where the source has our own names.
      shapes: path of each array of ours, and its shape.
    """
    theirs = {path: path for path in shapes} if table is None else _names(tensors, table, shapes)
    missing = [path for path, line in problems if line.endswith(UNFILLED)]
    wanted = {theirs[path]: path for path in missing if path in theirs}
    lines = []
    for number, (path, line) in enumerate(problems):
        name = line.partition(": ")[0]
        if table is not None and line.endswith(UNFILLED) and path in theirs:
            line += f", {theirs[path]} there"
        elif number < COMPARED and line.endswith(UNKNOWN):
            line += _nearest(name, wanted) or _nearest(name, theirs.values())
        elif number < COMPARED and table is None and ABSENT in line:
            line += _nearest(name, wanted)
        lines.append((path, line))
    return lines


def _names(tensors: Tensors, table: KeyTable, shapes: Mapping[str, Shape]) -> Mapping[str, str]:
    """Path -> name, in the layout that has most names of the source."""
    found = [names_of(table, shapes, layout) for layout in table.layouts]
    return max(found, key=lambda names: len(tensors.keys() & set(names.values())), default={})


def _nearest(name: str, choices: Iterable[str]) -> str:
    near: Sequence[str] = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.75)
    return f"; did you mean {near[0]!r}?" if near else ""
