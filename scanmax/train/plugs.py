"""What hangs on a run's plug points: built by name from the config, and held together."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from scanmax.errors import UserError, suggest
from scanmax.fields import check_value

# How a config writes a list of parts: (("dkd", {"weight": 1.0}), ("hint", {...})).
Pairs = tuple[tuple[str, dict[str, Any]], ...]


def lookup(registry: Mapping[str, Any], name: str, field: str) -> Any:
    """The entry of that name.

    Raises:
      UserError: there is none; the message names the field of the config and near matches.
    """
    if name not in registry:
        raise UserError(f"unknown {field}={name!r}; {suggest(name, registry)}")
    return registry[name]


def make(
    registry: Mapping[str, Any], name: str, options: Mapping[str, Any], field: str, /, **own: Any
) -> Any:
    """Builds the entry of that name from the options that the config gives it.

    Raises:
      UserError: an unknown name, an option that it does not take, or a number outside the range
        that its field declares.
    """
    kind = lookup(registry, name, field)
    known = {entry.name: entry for entry in dataclasses.fields(kind) if entry.init}
    known = {key: known[key] for key in known if key not in ("parent", "name", *own)}
    for key, value in options.items():
        if key not in known:
            raise UserError(f"{field} {name!r} has no option {key!r}; {suggest(key, known)}")
        check_value(f"{field} {name!r}: {key}", value, known[key].metadata)
    missing = [
        entry.name
        for entry in dataclasses.fields(kind)
        if entry.name in known
        and entry.name not in options
        and entry.default is dataclasses.MISSING
        and entry.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{field} {name!r} needs the option {missing[0]!r}")
    try:
        return kind(**options, **own)
    except (TypeError, ValueError) as error:
        raise UserError(f"{field} {name!r}: {error}") from error


def checked_pairs(pairs: Any, field: str) -> Pairs:
    """A config's list of parts as pairs; a bare name stands for a pair without options.

    Raises:
      UserError: an entry that is neither.

    >>> checked_pairs(("dkd", ("hint", {"weight": 2.0})), "config.objective.terms")
    (('dkd', {}), ('hint', {'weight': 2.0}))
    """
    found = []
    for entry in pairs:
        pair = (entry, {}) if isinstance(entry, str) else entry
        if not (
            isinstance(pair, Sequence)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], Mapping)
        ):
            raise UserError(
                f"{field}: {entry!r} is no pair of a name and its options, "
                "such as ('dkd', {'weight': 1.0})"
            )
        found.append((pair[0], dict(pair[1])))
    return tuple(found)


def numbered(names: Sequence[str]) -> list[str]:
    """Names made different: the second "hint" is "hint_1".

    >>> numbered(["hint", "kd", "hint"])
    ['hint', 'kd', 'hint_1']
    """
    return [
        name if names[:index].count(name) == 0 else f"{name}_{names[:index].count(name)}"
        for index, name in enumerate(names)
    ]
