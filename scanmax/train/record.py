"""What a run is and ran on: `run.json`, which the report and the table of a sweep read.

It holds the size of the model, what lies between a file and a logit and, for each part of a run
that was continued, the command, the versions, the commit and the devices.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from typing import Any

import jax

from scanmax.files import write_whole
from scanmax.train.build import Run
from scanmax.version import __version__

NAME = "run.json"
# Packages that decide what a run computes.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def write_record(workdir: pathlib.Path, run: Run, step: int, multiply_adds: int) -> None:
    """Adds the part of a run that begins behind a step; parts that it repeats are forgotten.

    Args:
      workdir: the run's folder; only the first process writes to it.
      run: the run.
      step: where it begins.
      multiply_adds: of the model, for one example.
    """
    if jax.process_index() != 0:
        return
    told = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.shapes.params["model"])),
        "multiply_adds": multiply_adds,
        "kind": run.pipeline.kind,
        "input": list(run.example.shape[1:]),
        "data": prepared(run.pipeline),
    }
    # What the words are, not the words: a tokenizer's file has megabytes.
    told["data"]["tokenizer"] = without_text(told["data"]["tokenizer"])
    before = read_record(workdir).get("parts", [])
    parts = [part for part in before if part["step"] < step]
    part = {
        "step": step,
        "time": time.time(),
        "command": command(),
        "versions": versions(),
        "commits": commits(),
        "devices": devices(),
    }
    write_whole(workdir / NAME, json.dumps({**told, "parts": [*parts, part]}, indent=2) + "\n")


def prepared(pipeline: Any) -> dict[str, Any]:
    """All that lies between a file and a logit: names of classes, preprocessing, tokenizer."""
    prepare = getattr(pipeline, "preprocessing", None)
    tokenizer = getattr(pipeline, "tokenizer", None)
    return {
        "class_names": list(pipeline.class_names),
        "preprocessing": prepare.to_dict() if prepare else None,
        "tokenizer": tokenizer.to_dict() if tokenizer else None,
    }


def without_text(tokenizer: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a tokenizer tells of itself but for the words of its file."""
    return tokenizer and {key: value for key, value in tokenizer.items() if key != "text"}


def read_record(workdir: pathlib.Path) -> dict[str, Any]:
    """What `write_record` wrote, {} where there is none or it is damaged."""
    try:
        found = json.loads((workdir / NAME).read_text())
        is_well = all(isinstance(part["step"], int) for part in found["parts"])
        counts = found["parameters"], found["multiply_adds"], *found["input"]
        is_well = is_well and all(isinstance(count, int) for count in counts)
        is_well = is_well and isinstance(found.get("data", {}), dict)
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return found if is_well else {}


def tokens_of(record: dict[str, Any]) -> int:
    """Tokens of an example of text; 0 of other data."""
    speaks = record.get("kind") in ("tokens", "labelled_tokens", "labelled_text")
    return record["input"][0] if speaks else 0


def command() -> str:
    """What was typed; of a notebook or a prompt, which no line starts again, what it is."""
    words = sys.orig_argv
    if any("ipykernel" in word for word in words):
        return "train() in a notebook"
    if len(words) < 2 or words[1] in ("-c", "-i"):
        return "train() in Python"
    # The interpreter's folder says nothing that its version does not.
    return shlex.join(["python", *words[1:]])


def versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {"scanmax": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def commits() -> dict[str, str]:
    """Name of a repository -> its commit: where the command was typed, and where scanmax lies.

    "-dirty" says that something in it was changed; what no repository holds is left out.
    """
    found = {}
    for folder in (os.getcwd(), str(pathlib.Path(__file__).parent)):
        top = _git(folder, "rev-parse", "--show-toplevel")
        # A virtual environment inside a repository is none of its files.
        if top and _git(folder, "ls-files", "."):
            name = pathlib.Path(top).name
            found[name] = _git(
                folder, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"
            )
    return {name: commit for name, commit in found.items() if commit}


def devices() -> str:
    """The devices of all processes: "8 x TPU v5 lite in 2 processes"."""
    first, count = jax.devices()[0], jax.device_count()
    if first.platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        told = f"{processor()}, {cores} cores" + (f" as {count} devices" if count > 1 else "")
    else:
        told = f"{count} x {first.device_kind}"
    processes = jax.process_count()
    return told + (f" in {processes} processes" if processes > 1 else "")


def processor() -> str:
    """The processor's name, or else its architecture."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.processor() or platform.machine()


def _git(folder: str, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *words], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
