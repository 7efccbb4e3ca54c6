"""Shows the "Example:" of a docstring as code: griffe, which reads them, knows "Examples:" only."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section while docstrings are read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each module, class, function and attribute."""
        if obj.docstring:
            heading = re.compile(r"^Example:$", re.MULTILINE)
            obj.docstring.value = heading.sub("Examples:", obj.docstring.value)
