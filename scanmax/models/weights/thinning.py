"""A smaller model's weights out of a larger one's: evenly spaced blocks, front channels."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_BLOCK = re.compile(r"(?P<head>(?:.*/)?[^/]*block_)(?P<number>\d\d)(?P<tail>/.*)")


def thinned(
    tensors: Mapping[str, Any], paths: Iterable[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The tensors whose blocks the model keeps, under the model's numbers, and what is left out.

    Of L blocks l stay, the first, the last and those evenly between: block i is the source's
    i (L - 1) / (l - 1), rounded; of one block the first.

    Args:
      tensors: by our paths, layers one by one.
      paths: the model's.

    >>> ours = [f"params/block_0{i}/kernel" for i in range(3)]
    >>> found, left = thinned({f"params/block_0{i}/kernel": i for i in range(6)}, ours)
    >>> list(found.values()), len(left)
    ([0, 2, 5], 3)
    """
    ours, theirs = depths(paths), depths(tensors)
    kept = {}
    for head, count in ours.items():
        have = theirs.get(head, count)
        if have > count:
            step = (have - 1) / max(1, count - 1)
            kept[head] = {round(place * step): place for place in range(count)}
    found, left = {}, []
    for path, value in tensors.items():
        match = _BLOCK.fullmatch(path)
        if match is None or match["head"] not in kept:
            found[path] = value
            continue
        place = kept[match["head"]].get(int(match["number"]))
        if place is None:
            left.append(path)
        else:
            found[f"{match['head']}{place:02d}{match['tail']}"] = value
    return found, tuple(left)


def depths(paths: Iterable[str]) -> dict[str, int]:
    """How many blocks stand behind each beginning of a path."""
    found: dict[str, int] = {}
    for path in paths:
        match = _BLOCK.fullmatch(path)
        if match is not None:
            head = match["head"]
            found[head] = max(found.get(head, 0), int(match["number"]) + 1)
    return found


def front(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The first entries of each axis.

    Raises:
      ValueError: there are not so many.
    """
    if x.ndim != len(shape) or any(have < want for have, want in zip(x.shape, shape)):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}, which is no part")
    return x[tuple(slice(0, want) for want in shape)]
