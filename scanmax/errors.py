"""Users' mistakes: one line that names the argument and the alternatives."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user, told in one line; command lines print it and exit with status 2."""


def suggest(name: str, choices: Iterable[str], limit: int = 5) -> str:
    """Says which choices resemble `name`, or lists the first ones when none does.

    >>> suggest("digit", ["digits", "bytes"])
    "did you mean 'digits'?"
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=limit, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(match) for match in near) + "?"
    listed = ", ".join(choices[:limit]) + (", ..." if len(choices) > limit else "")
    return f"known: {listed}"
