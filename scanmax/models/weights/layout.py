"""Names and shapes of a model's arrays in another library: a key table read from its end."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from scanmax.models.weights.sources import Tensors
from scanmax.models.weights.table import KeyTable, Row, Shape, row_of

# Of batch norms in torch: how many batches the averages have seen, beside the averages.
_SEEN, _AVERAGE = "num_batches_tracked", "running_mean"


# Names of one row that are looked through.
LISTED = 2_000


def template_of(
    table: KeyTable, shapes: Mapping[str, Shape], layout: str
) -> tuple[Tensors, list[str]]:
    """Tensors of a layout's names and shapes, whatever their values, for `save_weights(like=)`.

    Args:
      table: of the model's family; `layout` is one of its `layouts`.
      shapes: path of each of our arrays, layers one by one, and its shape.
      layout: a name of `table.layouts`.

    Returns:
      The tensors, which take no memory; and our paths that the layout has no name for.
    """
    is_last = table.layouts[layout] == "last"
    rows = table.rows[::-1] if is_last else table.rows
    # A tensor that repeats an array does not stand for it.
    rows = sorted(rows, key=lambda row: row.tied)
    numbers = sorted({int(number) for path in shapes for number in re.findall(r"\d+", path)})
    # A function may count otherwise than our paths do: layers of blocks of several one by one.
    few = 3 * (max(numbers, default=0) + 2)
    most = max(few, len({path.split("/")[1] for path in shapes}))
    found: Tensors = {}
    filled: set[tuple[str, int]] = set()
    for row in rows:
        if not row.paths:
            continue
        counts: Sequence[int] = numbers
        if callable(row.paths):
            # What is numbered through a whole network has one number.
            counts = range(most if most ** row.pattern.count(r"\d+") <= LISTED else few)
        for name, groups in spellings(row.pattern, counts, is_last):
            targets = _places(row, groups)
            if not all(path in shapes for path in targets) or not row.is_written(groups, shapes):
                continue
            units = {(path, index) for path in targets for index in _indices(row, shapes[path])}
            if name in found or (units & filled and not row.tied):
                continue
            try:
                shape = row.theirs([shapes[path] for path in targets])
            except IndexError:
                # An array of more axes than ours: another row's.
                continue
            read, found_at = row_of(name, len(shape), table.rows, shapes)
            if read is None or read.transform is not row.transform or found_at != targets:
                continue
            found[name] = np.broadcast_to(np.float32(0), shape)
            filled |= units
    for name in [name for name in found if name.endswith(_AVERAGE)]:
        seen = name.removesuffix(_AVERAGE) + _SEEN
        row, targets = row_of(seen, 0, table.rows, shapes)
        if row is not None and not targets:
            found[seen] = np.zeros((), np.int64)
    paths = {path for path, _ in filled}
    return found, [path for path in shapes if path not in paths]


def names_of(table: KeyTable, shapes: Mapping[str, Shape], layout: str) -> dict[str, str]:
    """Path of each array of ours -> the name of the tensor that holds it."""
    template, _ = template_of(table, shapes, layout)
    found: dict[str, str] = {}
    for name, tensor in template.items():
        row, targets = row_of(name, tensor.ndim, table.rows, shapes)
        if row is not None and not row.tied:
            found |= dict.fromkeys(targets, name)
    return found


def _places(row: Row, groups: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return row.places(groups)
    except IndexError:
        # A block or a stage that the model has not.
        return ("",)


def _indices(row: Row, shape: Shape) -> Sequence[int]:
    """Which slices of an array of ours a row fills."""
    if row.part is None:
        return (-1,)
    index, _ = row.part
    return index if isinstance(index, tuple) else (index,)


def spellings(
    pattern: str, numbers: Sequence[int], is_last: bool = False
) -> Iterator[tuple[str, tuple[str, ...]]]:
    r"""Every name that a pattern matches, with its groups, where the numbers of \d+ are these.

    Args:
      pattern: of literals, "\d", "\d+", classes of single characters, groups, "|" and "?".
      numbers: what "\d+" stands for, and "\d\d" with a zero in front.
      is_last: the last of alternatives comes first, and what may be left out is left out first.

    >>> [name for name, _ in spellings(r"(norm|fc)\.(?:a|b)(\d+)?", [7])][:4]
    ['norm.a7', 'norm.a', 'norm.b7', 'norm.b']
    """
    tree, count = _parsed(pattern)
    for name, groups in _spelled(tree, tuple(map(str, numbers)), is_last):
        yield name, tuple(groups.get(number, "") for number in range(count))


_TOKEN = re.compile(r"\\d|\\w|\\.|\[[^]]*\]|\(\?:|\(|\)|\||\?|\+|\*|.")
_DIGITS = tuple("0123456789")
# Parts of a name that are a number: of any size, or of two digits.
_ANY_NUMBER, _TWO_DIGITS = "number", "two digits"


@functools.lru_cache(maxsize=4096)
def _parsed(pattern: str):
    """(alternatives, number of groups); an alternative is a sequence of parts.

    A part is the texts that it may be, a number of some size, or (alternatives, group or None).
    """
    tokens = _TOKEN.findall(pattern)[::-1]
    groups = 0

    def alternatives():
        nonlocal groups
        found, parts = [], []
        while tokens and tokens[-1] != ")":
            token = tokens.pop()
            if token == "|":
                found.append(parts)
                parts = []
            elif token == "?":
                # With it, or without.
                parts.append(([[parts.pop()], []], None))
            elif token == "+" and parts[-1] == _DIGITS:
                parts[-1] = _ANY_NUMBER
            elif token in ("(", "(?:"):
                group = groups if token == "(" else None
                groups += token == "("
                inner = alternatives()
                tokens.pop()
                parts.append((inner, group))
            elif token == r"\d" and parts and parts[-1] == _DIGITS:
                parts[-1] = _TWO_DIGITS
            elif token == r"\d":
                parts.append(_DIGITS)
            elif token[0] == "[":
                parts.append(_members(token[1:-1]))
            elif token in ("+", "*", r"\w", "."):
                raise ValueError(f"{pattern!r}: nobody can tell which names {token!r} stands for")
            else:
                parts.append((token[-1],))
        return [*found, parts]

    return alternatives(), groups


def _members(inner: str) -> tuple[str, ...]:
    """Characters of a class, "a-c" written out."""

    def between(match: re.Match) -> str:
        return "".join(map(chr, range(ord(match[1]), ord(match[2]) + 1)))

    return tuple(re.sub(r"(.)-(.)", between, inner))


def _spelled(tree, numbers: tuple[str, ...], is_last: bool) -> Iterator[tuple[str, dict[int, str]]]:
    for parts in reversed(tree) if is_last else tree:
        yield from _joined(parts, 0, numbers, is_last)


def _joined(
    parts, start: int, numbers: tuple[str, ...], is_last: bool
) -> Iterator[tuple[str, dict[int, str]]]:
    if start == len(parts):
        yield "", {}
        return
    part, group = parts[start], None
    if isinstance(part, str) or isinstance(part[0], str):
        known_numbers = {_ANY_NUMBER: numbers, _TWO_DIGITS: [x.zfill(2) for x in numbers]}
        texts = known_numbers[part] if isinstance(part, str) else part[::-1] if is_last else part
        heads = [(text, {}) for text in texts]
    else:
        tree, group = part
        heads = list(_spelled(tree, numbers, is_last))
    tails = list(_joined(parts, start + 1, numbers, is_last))
    for head, inner in heads:
        known = inner if group is None else {**inner, group: head}
        for tail, rest in tails:
            yield head + tail, {**known, **rest} if known else rest
