"""Command lines: config files, `--config.a.b=c` overrides, and one line for a user's mistake.

A config file is Python with `get_config(arg="")` that returns a dataclass tree;
`--config=FILE:ARG` hands ARG to it. One of scanmax's own goes by its name from any folder, as
`--config=digits_vit`. Overrides go through ml_collections' config_flags.
"""

import ast
import atexit
import dataclasses
import importlib.machinery
import os
import pathlib
import sys
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_flags

from scanmax.errors import UserError, suggest
from scanmax.fields import check_fields, describe_fields

HELP_CONFIG = "--help_config"
# Platforms of JAX, and the extras that bring what drives them.
EXTRAS = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}
PACKAGED = pathlib.Path(__file__).parent / "configs"


class Done(Exception):
    """A command has said what it was asked, and ends well."""


def run_main(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs `main` on the arguments; a UserError becomes one line on stderr and status 2."""
    try:
        return main(list(sys.argv[1:] if argv is None else argv)) or 0
    except Done:
        return 0
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130
    except SystemExit as error:
        # Code that a user brought, which would end this as if all were well.
        print(f"error: something called sys.exit({error.code!r})", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Who reads has seen enough, as `| head` does; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # Permissions, a full disk, a missing path: the operating system's own words name it.
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (AssertionError, RuntimeError):
        told = missing_device()
        if not told:
            raise
        print("error:", told, file=sys.stderr)
        return 2


def missing_device() -> str:
    """What is wrong where JAX finds none of the devices that JAX_PLATFORMS names, else ""."""
    jax = sys.modules.get("jax")
    platforms = jax.config.jax_platforms if jax else None
    if not platforms:
        return ""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        # Of a CUDA that is not there JAX says nothing at all.
        words = str(error).partition(" (set JAX_PLATFORMS")[0].rstrip(".")
        extra = next((EXTRAS[name] for name in platforms.split(",") if name in EXTRAS), "")
        told = f"JAX finds no device of JAX_PLATFORMS={platforms}" + (f": {words}" if words else "")
        told += "; without the variable it takes what is there"
        return told + (
            f', and pip install "scanmax[{extra}]" brings what it lacks' if extra else ""
        )
    return ""


def leave(status: int) -> NoReturn:
    """Ends the process, even where a thread hangs in a read that Python would wait for."""
    # The name is scanmax.train.feed.NAME; only training has such a thread, and loads that module.
    if any(thread.name == "feed" for thread in threading.enumerate()):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def packaged_configs() -> list[str]:
    """Names of the configs that come with scanmax."""
    return sorted(file.stem for file in PACKAGED.glob("*.py") if file.stem != "__init__")


def find_config(path: str) -> pathlib.Path:
    """The file of a config: one of the user's, or else one of scanmax's own by its name.

    Raises:
        UserError: neither; the message lists near matches of both kinds.
    """
    file = pathlib.Path(path)
    if file.is_file():
        return file
    names = packaged_configs()
    if path in names:
        return PACKAGED / f"{path}.py"
    near = [str(found) for found in sorted(file.parent.glob("*.py"))]
    raise UserError(f"no config file {path!r}; " + suggest(path, [*near, *names]))


class _AsWritten(importlib.machinery.SourceFileLoader):
    """Compiles a file each time: Python takes a kept .pyc for the same length and second as new."""

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_config(path: str) -> Any:
    """Loads FILE or FILE:ARG and returns what its `get_config(arg)` returns."""
    path, _, argument = path.partition(":")
    file = find_config(path)
    if file.suffix != ".py":
        raise UserError(f"config file {path!r} is not a Python file")
    name = f"config_{file.stem}"
    module = types.ModuleType(name)
    module.__file__ = str(file)
    try:
        _AsWritten(name, str(file)).exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f'config file {path!r} has no get_config(arg="")')
        config = module.get_config(argument)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        where = f"{path}:{lines[-1]}" if lines else path
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error
    if not dataclasses.is_dataclass(config):
        raise UserError(f"{path}: get_config returned {type(config).__name__}, not a dataclass")
    return config


def parse_flags(
    argv: Sequence[str], *, define: Callable[[flags.FlagValues], None] | None = None
) -> tuple[Any, flags.FlagValues]:
    """Parses `--config=FILE`, its overrides and the flags that `define` adds.

    Args:
        argv: arguments without the program's name.
        define: called with the FlagValues to add flags to.

    Returns:
        The config with its overrides applied, and the flag values.

    Raises:
        UserError: naming the flag or field, its type, and near matches.
        Done: `--help_config` was among them; every field has been printed, as the overrides beside
            it leave it.
    """
    # Both spellings of absl, `--flag=value` and `--flag value`, with one or two dashes.
    argv = ["-" + word if word.startswith("-config") else word for word in argv]
    values = flags.FlagValues()
    if define is not None:
        define(values)
    known = sorted(values)
    _check_flag_names(argv, known)
    path = _value_of(argv, "config")
    if path is None:
        raise UserError("--config=NAME or FILE is required, for example --config=digits_vit")
    config = load_config(path)
    if HELP_CONFIG not in argv:
        return override(config, argv, values), values
    try:
        overridden = override(config, [word for word in argv if word != HELP_CONFIG], values)
    except UserError:
        # Whoever asks what there is may have got one of them wrong.
        print(describe_fields(load_config(path)))
        raise
    print(describe_fields(overridden))
    raise Done


def override(config: Any, argv: Sequence[str], values: flags.FlagValues) -> Any:
    """Applies `--config.a.b=c` to a config, and parses the flags that `values` defines.

    Raises:
        UserError: as of `parse_flags`.
    """
    argv = _expand_dicts(argv, config)
    for name in _overrides(argv):
        _prepare_path(config, name)
    config_flags.DEFINE_config_dataclass(
        "config",
        config,
        flag_values=values,
        sys_argv=["", *argv],
        parse_fn=lambda _: config,
    )
    try:
        rest = values(["", *argv])[1:]
    except (flags.Error, ValueError, TypeError, KeyError) as error:
        raise UserError(_one_line(error)) from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: everything is a flag")
    config = values["config"].value
    check_fields(config)
    return config


def to_dict(config: Any) -> Any:
    """Returns a dataclass tree as plain dicts, lists, strings and numbers, for JSON."""
    if dataclasses.is_dataclass(config):
        return {
            field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)
        }
    if isinstance(config, dict):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return config


def _value_of(argv: Sequence[str], name: str) -> str | None:
    for index, word in enumerate(argv):
        if word == f"--{name}" and index + 1 < len(argv):
            return argv[index + 1]
        if word.startswith(f"--{name}="):
            return word.split("=", 1)[1]
    return None


def _overrides(argv: Sequence[str]) -> list[str]:
    return [
        word.split("=", 1)[0].removeprefix("--config.")
        for word in argv
        if word.startswith("--config.")
    ]


def _check_flag_names(argv: Sequence[str], known: Sequence[str]) -> None:
    choices = {*known, "config", "help", "helpfull", "helpshort", HELP_CONFIG.lstrip("-")}
    for word in argv:
        name = word.split("=", 1)[0].lstrip("-")
        if not word.startswith("--") or name in choices or name.startswith("config."):
            continue
        if name.removeprefix("no") not in choices:
            raise UserError(f"unknown flag --{name}; {suggest(name, sorted(choices))}")


def _expand_dicts(argv: Sequence[str], config: Any) -> list[str]:
    """Writes `--config.kwargs={'a': 1}` as `--config.kwargs.a=1`: entries are added or replaced."""
    expanded = []
    for word in argv:
        name, _, text = word.partition("=")
        node = config
        for part in name.removeprefix("--config.").split("."):
            node = node.get(part) if isinstance(node, dict) else getattr(node, part, None)
        if not (name.startswith("--config.") and isinstance(node, dict) and text):
            expanded.append(word)
            continue
        try:
            entries = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            entries = None
        if not isinstance(entries, dict):
            raise UserError(f"{name[2:]} takes a dict such as \"{{'depth': 3}}\", not {text!r}")
        expanded += [f"{name}.{key}={value!r}" for key, value in entries.items()]
    return expanded


def _prepare_path(config: Any, path: str) -> None:
    """Checks one override's path. A free-form dict takes any key, and its value as a literal."""
    node, walked = config, "config"
    *parents, last = path.split(".")
    for name in parents:
        node = _child(node, name, walked)
        walked += f".{name}"
    if isinstance(node, dict):
        # config_flags parses a value as the type it replaces: `object` stands for any literal.
        node[last] = object()
    else:
        _child(node, last, walked)


def _child(node: Any, name: str, walked: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(name, {})
    if not dataclasses.is_dataclass(node):
        raise UserError(f"{walked} is a value, it has no field {name!r}")
    fields = [field.name for field in dataclasses.fields(node)]
    if name not in fields:
        raise UserError(f"{walked} has no field {name!r}; {suggest(name, fields)}")
    return getattr(node, name)


def _one_line(error: BaseException) -> str:
    return str(error).strip("'\"").split("\n")[0] or type(error).__name__
