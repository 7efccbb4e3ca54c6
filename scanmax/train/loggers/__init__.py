"""Where a run tells its numbers beside `metrics.jsonl`, one file each, named by `config.log.to`."""

import importlib
import importlib.util

from scanmax.errors import UserError, suggest
from scanmax.public import shown
from scanmax.train.loggers.base import Logger
from scanmax.train.loggers.mlflow import MLflow
from scanmax.train.loggers.tensorboard import TensorBoard
from scanmax.train.loggers.wandb import Wandb
from scanmax.train.plugs import checked_pairs, make

LOGGERS: dict[str, type[Logger]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "wandb": Wandb,
}
# What the package of an extra is imported as; the extra has the logger's name.
_EXTRAS = {"mlflow": "mlflow", "wandb": "wandb"}
_FIELD = "config.log.to"


def make_loggers(entries) -> tuple[Logger, ...]:
    """The loggers that a config names, not yet open.

    Args:
      entries: names, or pairs of a name and its options. "jsonl" is `metrics.jsonl`, which is
        written whatever stands here. A name with a colon, "mine.slack:Slack", is a class of one's
        own that can be imported.

    Raises:
      UserError: an unknown name or option, or a package that is not installed.
    """
    loggers = []
    for name, options in checked_pairs(entries, _FIELD):
        if name == "jsonl":
            if options:
                raise UserError(f"{_FIELD} 'jsonl' has no options")
            continue
        known = dict(LOGGERS)
        if ":" in name:
            known[name] = _imported(name)
        elif name not in known:
            raise UserError(f"unknown {_FIELD}={name!r}; {suggest(name, [*known, 'jsonl'])}")
        package = _EXTRAS.get(name)
        if package and importlib.util.find_spec(package) is None:
            raise UserError(f"{_FIELD}={name!r} needs {package}: pip install 'scanmax[{name}]'")
        loggers.append(make(known, name, options, _FIELD))
    return tuple(loggers)


def _imported(name: str) -> type[Logger]:
    """The class that "module:Class" names."""
    module, _, attribute = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{_FIELD}={name!r} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Logger)):
        raise UserError(f"{_FIELD}={name!r} is no class over scanmax.train.loggers.Logger")
    return kind


__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
