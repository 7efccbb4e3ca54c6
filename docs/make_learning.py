"""The last section of docs/learning.md: every way of learning by its config line, from the code.

python docs/make_learning.py
"""

import csv
import functools
import inspect
import json
import pathlib
import re

from scanmax.train.evaluators import EVALUATORS
from scanmax.train.gradients import GRADIENTS
from scanmax.train.losses import LOSSES
from scanmax.train.mixing import MIXES
from scanmax.train.objectives import OBJECTIVES
from scanmax.train.relabels import RELABELS
from scanmax.train.terms import TERMS
from scanmax.train.transforms import TRANSFORMS

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs/learning.md"
HEAD = """## All of them

Written by `make docs` from the code. What a config line leaves out are options with defaults, which
the docstring of the class tells. Costs are beside a plain step, a term's beside plain distillation;
a factor, where one stands, is that of a small ViT's step on a CPU (`python -m benchmarks learning`,
see [benchmark_tables.md](benchmark_tables.md)). "Claim" names what was measured of it with three
seeds (`grokking` with one), whether it held or not, in [claims.md](claims.md). "Checked" are the
tests that name it; of those in `tests/parity` the equal is a package's.

| config line | is | paper | cost | claim | checked |
| --- | --- | --- | --- | --- | --- |
"""
# Which table has the factor of what.
OVERHEAD = {
    **dict.fromkeys(("mix", "labels", "objective"), "mixing_overhead"),
    **dict.fromkeys(("gradient", "transform"), "rule_overhead"),
    "loss": "loss_overhead",
    "term": "term_overhead",
}
# What has no default.
OPTIONS = {
    "ldam": "{'counts': (50, 9)}",
    "semantic_softmax": "{'parents': (-1, 0)}",
    "snapmix": "{'tap': 'block_11/output'}",
    "fake_quantize": "{'match': ('kernel',)}",
}
# A claim whose figures call it by the function that it is.
CLAIMED = {"stablemax_cross_entropy": "grokking"}
# What a config has that the tests run, without naming it.
BY_CONFIG = {"regression": "adding", "sequence_labels": "sequence_tasks"}
LINES = {
    "objective": (OBJECTIVES, "config.objective.name={name}"),
    "loss": (LOSSES, "config.objective.loss={name}"),
    "term": (TERMS, "config.objective.terms=(('{name}', {options}),)"),
    "mix": (MIXES, "config.mix=(('{name}', {options}),)"),
    "labels": (RELABELS, "config.objective.kwargs={{'relabel': '{name}'}}"),
    "gradient": (GRADIENTS, "config.optim.gradient={name}"),
    "transform": (TRANSFORMS, "config.transforms=(('{name}', {options}),)"),
    "evaluator": (EVALUATORS, "config.evaluators=(('{name}', {options}),)"),
}


def config_line(plug: str, name: str) -> str:
    """What a config sets to have it."""
    line = LINES[plug][1].format(name=name, options=OPTIONS.get(name, "{}"))
    if plug == "loss" and name in OPTIONS:
        line += f", config.objective.loss_kwargs={OPTIONS[name]}"
    return line


def summary(kind: type) -> str:
    """The first sentence of a class's docstring."""
    return inspect.getdoc(kind).split("\n\n")[0].replace("\n", " ").rstrip(".")


def paper(kind: type) -> str:
    """What its docstring cites."""
    pattern = r"^(?:Reference|Source): (.+?)(?:;|\n\n|\nSource|\Z)"
    found = re.search(pattern, inspect.getdoc(kind), re.MULTILINE | re.DOTALL)
    if not found:
        return "-"
    cited = " ".join(found[1].split()).rstrip(".")
    if re.fullmatch(r"[a-z0-9-]+(, [a-z0-9-]+)*", cited):
        return ", ".join(f"`{key}`" for key in cited.split(", "))
    return cited


@functools.cache
def overheads(case: str) -> dict[str, float]:
    """Of the kept table of a case, the time of a step with each method over that without."""
    found = {}
    for path in sorted((ROOT / "benchmarks/tables").glob(f"*/{case}.csv")):
        with path.open(newline="") as file:
            for record in csv.DictReader(file):
                if record["speedup"]:
                    found[record["row"].split(",")[0]] = 1 / float(record["speedup"])
    return found


def cost(plug: str, name: str, kind: type) -> str:
    """What a step pays for it: the factor that was measured, and as the class says."""
    source = inspect.getsource(kind)
    factor = overheads(OVERHEAD[plug]).get(name) if plug in OVERHEAD else None
    parts = [f"x {factor:.2f}"] if factor else []
    if plug == "objective":
        parts += [f"{kind.views} views of each image"] if kind.views > 1 else []
    if plug == "term":
        parts += ["the teacher's pass"] if kind.needs_teacher else []
        parts += ["its layers behind the tap again"] if ".resume(" in source else []
        parts += ["activations kept"] if kind.reads_taps else []
        parts += [] if kind.accumulates else ["the whole batch at once"]
    if plug == "mix" and kind.guided:
        parts += ["a pass of the guide" + (", and back" if ".resume(" in source else "")]
    if plug == "labels":
        parts += ["attention kept"]
    if plug == "gradient" and "two gradients" in source:
        parts += ["a second gradient"]
    if plug == "gradient" and "five gradients" in source:
        parts += ["about four more gradients"]
    if plug == "evaluator":
        parts += ["none: held-out parts alone"]
    return ", ".join(parts) or "-"


def claimed(name: str) -> str:
    """Claims of three seeds about it: those of its name, and those whose figures name it."""
    results = json.loads((ROOT / "benchmarks/claims/results.json").read_text())
    named = re.compile(rf"digits-{name.replace('_', '-')}(-.*)?").fullmatch
    found = [
        key
        for key, entry in sorted(results.items())
        if key == CLAIMED.get(name)
        or named(key)
        or any(f"`{name}`" in finding["what"] for finding in entry["findings"])
    ]
    return ", ".join(f"`{key}`" for key in found) or "-"


def checked(plug: str, name: str, kind: type) -> str:
    """Tests that name it, or its class."""
    found = []
    compared = ["tests/parity"] if plug in ("loss", "term", "mix", "objective") else []
    for folder in ("tests/train", *compared):
        for path in sorted((ROOT / folder).rglob("test_*.py")):
            config = BY_CONFIG.get(name, name)
            if re.search(rf"""["']({name}|{config})["']|\b{kind.__name__}\b""", path.read_text()):
                found.append(f"[{path.stem.removeprefix('test_')}](../{path.relative_to(ROOT)})")
    return ", ".join(found)


def section() -> str:
    """The section, with a row for each."""
    rows = []
    for plug, (registry, _) in LINES.items():
        for name, kind in sorted(registry.items()):
            cells = (
                f"`{config_line(plug, name)}`",
                summary(kind),
                paper(kind),
                cost(plug, name, kind),
                claimed(name),
                checked(plug, name, kind),
            )
            rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return HEAD + "\n".join(rows) + "\n"


def page(text: str) -> str:
    """The page with its last section anew."""
    return text.split(HEAD.splitlines()[0])[0].rstrip() + "\n\n" + section()


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
