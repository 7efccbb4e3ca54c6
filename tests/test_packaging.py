"""setup.py says what the code needs: dependencies, extras, packages, console scripts."""

import ast
import importlib
import pathlib
import re
import sys
from unittest import mock

import pytest
import setuptools

ROOT = pathlib.Path(__file__).parents[1]
# Import names that differ from the distribution's.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "mlflow": "mlflow-skinny",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
    # Hard dependencies of declared ones.
    "jaxlib": "jax",
    "nbformat": "nbclient",
    "onnxruntime": "jax2onnx",
    "pyarrow": "tensorflow-datasets",
    "scipy": "scikit-learn",
    "torchvision": "timm",
    "yaml": "ml_collections",
}
# Imported where the user asks for them; the error says what to install.
OPTIONAL = {"torch", "huggingface_hub"}


@pytest.fixture(scope="module")
def given() -> dict:
    """The arguments that setup.py gives to setup."""
    with (
        mock.patch.object(setuptools, "setup") as setup,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(ROOT)
        source = (ROOT / "setup.py").read_text()
        exec(compile(source, "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    return setup.call_args.kwargs


def names(requirements) -> set[str]:
    return {re.split(r"[\[<>=!~ ;]", text)[0].lower().replace("_", "-") for text in requirements}


def third_party(folder: str) -> dict[str, str]:
    """Top-level modules that the files of a folder import, each with one file that does."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            else:
                continue
            for module in modules:
                found[module.split(".")[0]] = str(path.relative_to(ROOT))
    local = {"scanmax", "benchmarks", "tests"}
    if folder == "tests":
        # Files there import each other by their bare names.
        files = (ROOT / folder).rglob("*.py")
        local |= {part for path in files for part in (path.stem, path.parent.name)}
    return {k: v for k, v in found.items() if k not in local and k not in sys.stdlib_module_names}


def undeclared(folder: str, declared: set[str], optional=frozenset()) -> dict[str, str]:
    return {
        module: path
        for module, path in third_party(folder).items()
        if module not in optional
        and DISTRIBUTIONS.get(module, module).lower().replace("_", "-") not in declared
    }


def test_the_package_declares_what_it_imports(given):
    extras = ("text", "hf", "mlflow", "wandb", "onnx", "tensorflow")
    declared = names(given["install_requires"]).union(
        *(names(given["extras_require"][key]) for key in extras)
    )
    assert undeclared("scanmax", declared, OPTIONAL) == {}


def test_the_tests_declare_what_they_import(given):
    declared = names(given["install_requires"]) | names(given["extras_require"]["dev"])
    assert undeclared("tests", declared | {"setuptools"}) == {}
    # Peers of those who have a GPU, and asked for where they are installed.
    assert undeclared("benchmarks", declared, {"fla", "mamba_ssm"}) == {}


def test_the_extras(given):
    extras = {"cuda", "tpu", "tpu-compile", "text", "hf", "mlflow", "wandb"}
    extras |= {"test", "parity", "dev", "docs", "gcs", "s3", "onnx", "tensorflow"}
    assert set(given["extras_require"]) == extras
    test, parity, dev = (names(given["extras_require"][key]) for key in ("test", "parity", "dev"))
    assert names(given["extras_require"]["text"]) < test < parity < dev
    assert names(given["extras_require"]["hf"]) < test
    assert given["python_requires"] == ">=3.11"


def test_the_citation_is_of_this_version(given):
    assert f"\nversion: {given['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_folder_with_code_is_a_package(given):
    folders = {path.parent for path in (ROOT / "scanmax").rglob("*.py")}
    expected = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert expected == set(given["packages"])


def test_console_scripts_lead_to_functions(given):
    scripts = dict(entry.split("=") for entry in given["entry_points"]["console_scripts"])
    assert {"scanmax-data", "scanmax-evaluate", "scanmax-models", "scanmax-train"} <= set(scripts)
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))
