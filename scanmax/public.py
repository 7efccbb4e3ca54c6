"""What a package shows: `dir()` and `import *` give functions, classes and tables, no modules."""

import types
from collections.abc import Mapping
from typing import Any


def shown(namespace: Mapping[str, Any], *more: str) -> list[str]:
    """The public names of a package, for its `__all__` and `__dir__`.

    Those are the functions and classes of the package or one below it, and its tables; what it has
    imported to work with is none of them.

    Args:
      namespace: the package's globals.
      more: names that it gives when they are asked for, and modules that it offers as such.
    """
    package = namespace["__name__"]
    names = set(more)
    for name, value in namespace.items():
        if name.startswith("_") or isinstance(value, types.ModuleType):
            continue
        # Only functions and classes say where they are from.
        home = getattr(value, "__module__", None) if callable(value) else None
        is_own = home == package or str(home).startswith(f"{package}.")
        if is_own or (name.isupper() and isinstance(value, Mapping | tuple)):
            names.add(name)
    return sorted(names)
