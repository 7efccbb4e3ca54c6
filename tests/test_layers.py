"""The house keeps its order: who imports whom, how long files are, how fast scanmax starts."""

import ast
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
        "scanmax.errors",
        "scanmax.ops",
        # Files of weights, and the hub they may come from.
        "huggingface_hub",
        "orbax",
        "safetensors",
        "torch",
    },
    # Whatever setup.py declares, and never models or the trainer.
    "scanmax.data": {"scanmax.cli", "scanmax.errors", ANY},
}
# Nothing outside of these knows the trainer.
ABOVE = {"scanmax.train", "scanmax.configs"}


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
        if path.relative_to(PACKAGE).parts[0] in ("train", "configs"):
            continue
        for module in imports(path):
            assert not is_within(module, ABOVE), f"{path.relative_to(ROOT)} imports {module}"


def test_the_rule_can_fail(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("def f():\n    from scanmax.train import step\n    import torch.nn\n")
    assert imports(path) == {"scanmax.train.step", "torch.nn"}
    assert is_within("scanmax.train.step", ABOVE)
    assert not is_within("scanmax.trainer", ABOVE)


def test_files_are_short_and_have_ideas_for_names():
    for path in ALL_SOURCES:
        lines = len(path.read_text().splitlines())
        assert lines <= LINES, f"{path.relative_to(ROOT)} has {lines} lines: split it by idea"
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
