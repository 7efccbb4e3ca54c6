"""One sharded trainer: `python -m scanmax.train --config=FILE --workdir=DIR`."""

from typing import Any

from scanmax.public import shown


def __getattr__(name: str) -> Any:
    """`train`, loaded when it is asked for: what only parses flags need not wait for it."""
    if name == "train":
        from scanmax.train.loop import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = shown(globals(), "train")


def __dir__() -> list[str]:
    return __all__
