"""The house keeps its order: who imports whom, how long files are, how fast scanmax starts."""

import ast
import functools
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "scanmax"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_SOURCES = [
    path
    for folder in ("scanmax", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
LINES = 520

# Any module of others.
ANY = "*"
# What each layer may import besides the standard library and itself.
ALLOWED = {
    "scanmax.ops": {"jax", "jaxtyping", "numpy"},
    "scanmax.models": {
        "flax",
        "jax",
        "jaxtyping",
        "numpy",
        "scanmax.checksum",
        "scanmax.errors",
        "scanmax.fields",
        "scanmax.ops",
        "scanmax.public",
        # Files of weights, and the hub they may come from.
        "huggingface_hub",
        "orbax",
        "safetensors",
        "torch",
    },
    # Whatever setup.py declares, and never models or the trainer.
    "scanmax.data": {
        "scanmax.cli",
        "scanmax.errors",
        "scanmax.fields",
        "scanmax.files",
        "scanmax.public",
        ANY,
    },
}
# The families, lowest first: a family imports those before it, in `ops`, `ops.reference` and
# `models.mixers` alike. A new one takes its place here.
FAMILIES = (
    "softmax",
    "conv",
    "spectral",
    "mlp",
    "scan",
    "linear",
    "attention",
    "tokens",
    "local",
    "channels",
    "context",
)
GROUND = (
    "contract",
    "keeping",
    "kernel_parts",
    "native",
    "segments",
    "selection",
    "norm",
    "evonorm",
    "position",
)
# The rooms and files of a package, lowest first.
ROOMS = {
    "scanmax.ops": (*GROUND, *FAMILIES, "reference"),
    "scanmax.ops.reference": (*GROUND, *FAMILIES),
    "scanmax.models.mixers": ("base", *FAMILIES),
    "scanmax.models": (
        "registry",
        "taps",
        "statistics",
        "layers",
        "towers",
        "weights",
        "parts",
        "mixers",
        "blocks",
        "prompts",
        "adapters",
        "hypernetworks",
        "vision",
        "language",
        "sequence",
        "fusion",
        "generation",
        "catalog",
        "shrink",
        "multiply_adds",
        "analysis",
        "roofline",
    ),
}
# Nothing outside of these knows the trainer.
ABOVE = {"scanmax.train", "scanmax.configs"}


@functools.cache
def imports(path: pathlib.Path) -> set[str]:
    """Modules that a file imports, at the top or inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_within(module: str, packages) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def module_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str, package: str) -> str:
    """The folder or file of the package that a module lies in, "" for one from elsewhere."""
    return module.removeprefix(f"{package}.").split(".")[0] if is_within(module, {package}) else ""


def upward(path: pathlib.Path, package: str) -> list[str]:
    """Modules of the package that a file imports from a room above its own."""
    order = ROOMS[package]
    own = order.index(room_of(module_of(path), package))
    return sorted(
        module
        for module in imports(path)
        if room_of(module, package) in order and order.index(room_of(module, package)) > own
    )


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Names that lead from one to the next and back to the first; empty where there are none."""
    done: set[str] = set()

    def walk(name, way):
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for following in sorted(graph.get(name, ())):
            found = walk(following, [*way, name])
            if found:
                return found
        done.add(name)
        return []

    for name in sorted(graph):
        found = walk(name, [])
        if found:
            return found
    return []


def import_graph(files: list[pathlib.Path]) -> dict[str, set[str]]:
    """Which module imports which: what a name means is the longest module that it starts with."""
    known = {module_of(path): path for path in files}

    def meant(name):
        while name and name not in known:
            name = name.rpartition(".")[0]
        return name

    return {
        module: {meant(name) for name in imports(path)} - {"", module}
        for module, path in known.items()
    }


def layer_files(layer: str) -> list[pathlib.Path]:
    return sorted((ROOT / layer.replace(".", "/")).rglob("*.py"))


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_a_layer_imports_only_what_is_below(layer):
    assert layer_files(layer)
    for path in layer_files(layer):
        if path.name == "__main__.py":
            # A command line may read flags and print tables.
            continue
        for module in imports(path):
            if module.split(".")[0] in sys.stdlib_module_names or is_within(module, {layer}):
                continue
            if ANY in ALLOWED[layer] and not is_within(module, {"scanmax"}):
                continue
            assert is_within(module, ALLOWED[layer]), f"{path.relative_to(ROOT)} imports {module}"


def test_nothing_below_knows_the_trainer():
    for path in SOURCES:
        if is_within(module_of(path), ABOVE | {"scanmax.testing.objective_suite"}):
            # `scanmax.testing` imports the suite of objectives when it is asked for.
            continue
        # `scanmax.load` reads a run when it is called.
        doors = {"scanmax.train.inference"} if module_of(path) == "scanmax" else set()
        for module in imports(path):
            assert is_within(module, doors) or not is_within(module, ABOVE), (
                f"{path.relative_to(ROOT)} imports {module}"
            )


@pytest.mark.parametrize("package", sorted(ROOMS))
def test_a_room_imports_no_room_above_it(package):
    folder = ROOT / package.replace(".", "/")
    entries = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    entries = {name for name in entries if not name.startswith("__")}
    assert entries <= set(ROOMS[package]), "a new room takes its place in ROOMS"
    for path in layer_files(package):
        if path.parent == folder and path.stem.startswith("__"):
            continue
        above = upward(path, package)
        assert not above, f"{path.relative_to(ROOT)} imports {above}"


def test_the_families_are_those_of_the_page():
    page = (ROOT / "docs/conventions.md").read_text()
    section = page.split("## Families")[1].split("\n## ")[0]
    families = [path.name for path in (PACKAGE / "ops").iterdir() if path.name in FAMILIES]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == sorted(
        families, key=FAMILIES.index
    )


def test_no_modules_import_each_other_in_a_circle():
    assert not circle(import_graph(SOURCES))


def test_circles_and_steps_up_are_found(tmp_path, monkeypatch):
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    path = tmp_path / "scanmax/ops/softmax/wrong.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from scanmax.ops.contract import op\n"
        "def f():\n    from scanmax.ops.attention.streaming import stream\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert upward(path, "scanmax.ops") == ["scanmax.ops.attention.streaming.stream"]


@pytest.mark.parametrize("package", sorted(ROOMS))
def test_a_file_does_not_repeat_the_name_of_its_room(package):
    for path in layer_files(package):
        room = path.parent.name
        assert room == path.stem or room not in path.stem.split("_"), path.relative_to(ROOT)


def test_the_rule_can_fail(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("def f():\n    from scanmax.train import step\n    import torch.nn\n")
    assert imports(path) == {"scanmax.train.step", "torch.nn"}
    assert is_within("scanmax.train.step", ABOVE)
    assert not is_within("scanmax.trainer", ABOVE)


def test_files_are_short_and_have_ideas_for_names():
    for path in ALL_SOURCES:
        lines = len(path.read_text().splitlines())
        # A generated table is as long as the list of models.
        assert lines <= LINES or path.name == "multiply_adds.py", (
            f"{path.relative_to(ROOT)} has {lines} lines: split it by idea"
        )
        assert path.stem not in ("utils", "util", "helpers", "misc", "common"), path


def test_modules_say_what_they_are():
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no docstring"


def test_no_path_of_a_machine():
    machine_path = re.compile(r"(?<![\w.])/(?:home|root|Users|work|mnt|data\d*)/\w+")
    texts = [
        *ALL_SOURCES,
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*"),
        *ROOT.glob("notebooks/*.ipynb"),
    ]
    for path in [*texts, ROOT / "Makefile", ROOT / "setup.py", ROOT / "pyproject.toml"]:
        if path.is_dir() or path.suffix in (".png", ".svg"):
            continue
        found = machine_path.search(path.read_text())
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def test_import_is_light():
    """Under two seconds beyond jax and flax, measured twice to forgive a busy machine."""
    code = (
        "import time, sys, json; import jax, flax.linen, numpy; start = time.process_time(); "
        "import scanmax; took = time.process_time() - start; "
        "print(json.dumps([took, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    runs = []
    for _ in range(2):
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        runs.append(json.loads(process.stdout))
    assert min(took for took, _ in runs) < 2.0
    heavy = {"tensorflow", "tensorflow_datasets", "torch", "grain", "matplotlib", "sklearn"}
    assert not heavy & set(runs[0][1])
