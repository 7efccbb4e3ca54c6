"""The documentation is true: its Python blocks run, page by page, and its suites pass."""

import ast
import doctest
import importlib
import inspect
import pathlib
import re
import sys
import textwrap
import types
import unittest
from unittest import mock

import pytest

from scanmax.data.__main__ import OWN
from scanmax.data.sources import SOURCES
from scanmax.models import mixers, registry
from scanmax.testing import op_suite
from scanmax.train.evaluators import EVALUATORS
from scanmax.train.gradients import GRADIENTS
from scanmax.train.losses import LOSSES
from scanmax.train.mixing import MIXES
from scanmax.train.objectives import OBJECTIVES
from scanmax.train.plugs import make
from scanmax.train.relabels import RELABELS
from scanmax.train.terms import TERMS
from scanmax.train.transforms import TRANSFORMS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    path
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    if "```python\n" in path.read_text()
]


def run(name: str, source: str) -> types.ModuleType:
    """Executes source as a module, then every test case that it defines."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    try:
        exec(compile(source, name, "exec"), module.__dict__)
        for value in list(vars(module).values()):
            if inspect.isclass(value) and issubclass(value, unittest.TestCase):
                if value.__module__ != name:
                    continue
                result = unittest.TestResult()
                unittest.defaultTestLoader.loadTestsFromTestCase(value).run(result)
                assert result.testsRun
                assert not result.failures + result.errors, result.failures + result.errors
    finally:
        del sys.modules[name]
    return module


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_runs_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What a page registers ends with it.
    registry.list_models()
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    monkeypatch.setattr(mixers, "MIXERS", dict(mixers.MIXERS))
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    with mock.patch.dict(TERMS), mock.patch.dict(OBJECTIVES), mock.patch.dict(SOURCES):
        run(f"page_{path.stem}", "\n".join(blocks))


def test_the_example_of_the_op_suite_runs():
    block = re.search(r"\n\n((?: {4}.*\n|\n)+)", op_suite.__doc__)[1]
    run("docstring_of_op_suite", textwrap.dedent(block))


def test_the_page_on_learning_names_what_there_is():
    page = (ROOT / "docs/learning.md").read_text()
    names = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    plugs = (EVALUATORS, GRADIENTS, LOSSES, MIXES, OBJECTIVES, RELABELS, TERMS, TRANSFORMS)
    assert sorted(names) == sorted(name for plug in plugs for name in plug)


def test_the_page_on_own_data_lists_every_source_of_a_users():
    page = (ROOT / "docs/own_data.md").read_text()
    listed = set(re.findall(r"^\| \[`([\w:]+)`\]", page, re.MULTILINE))
    theirs = {name for name in OWN if "data.data_dir" in OWN[name] or name.startswith("hf:")}
    assert listed == theirs
    assert listed - {"hf:NAME"} < set(SOURCES) <= set(OWN)


@pytest.mark.parametrize("name", ["config", "recipes"])
def test_pages_made_of_the_code_are_current(name):
    make = types.ModuleType(f"make_{name}")
    exec((ROOT / f"docs/make_{name}.py").read_text(), make.__dict__)
    assert (ROOT / f"docs/{name}.md").read_text() == make.page(), "run `make docs`"


def test_the_table_of_all_ways_of_learning_is_current():
    """Each with a config line that builds, and tests that name it."""
    make_learning = types.ModuleType("make_learning")
    make_learning.__file__ = str(ROOT / "docs/make_learning.py")
    exec((ROOT / "docs/make_learning.py").read_text(), make_learning.__dict__)
    text = (ROOT / "docs/learning.md").read_text()
    assert text == make_learning.page(text), "run `make docs`"
    unchecked = [row for row in make_learning.section().splitlines() if row.endswith("|  |")]
    assert not unchecked
    for plug in ("loss", "term", "mix", "transform", "evaluator"):
        registry, _ = make_learning.LINES[plug]
        own = {"classes": 2} if plug == "mix" else {}
        for name in registry:
            options = ast.literal_eval(make_learning.OPTIONS.get(name, "{}"))
            make(registry, name, options, plug, **own)


def test_links_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
            if "://" not in link:
                assert (path.parent / link).exists(), f"{path.name} links to {link}"


def modules_with_examples() -> list[str]:
    """Modules of the package whose docstrings hold examples; ops have tests/test_api.py."""
    names = []
    for path in sorted((ROOT / "scanmax").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if ">>> " in path.read_text() and not name.startswith("scanmax.ops."):
            names.append(name.removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
