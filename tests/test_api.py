"""Every public op keeps the contract: twin, documentation that runs, and a comparison."""

import doctest
import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

from scanmax import ops, papers
from scanmax.ops import reference
from scanmax.testing import OpSuite
from scanmax.testing.op_case import BACKEND_OPTIONS

TESTS = pathlib.Path(__file__).parent
SECTIONS = ("Args", "Returns", "Raises", "Example", "Reference")
NAMES = list(ops.__all__)
OPS = [name for name in NAMES if callable(getattr(ops, name)) and name.islower()]


def room_of(module: str, package: str) -> str:
    """The family that a module lives in; its own name where it stands at the root."""
    assert module.startswith(f"{package}."), f"{module} is not of {package}"
    return module.removeprefix(f"{package}.").split(".")[0]


def described(name: str) -> dict[str, str]:
    """The parts of an op's docstring: summary, body, and each section."""
    text = inspect.getdoc(getattr(ops, name)) or ""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", text, flags=re.MULTILINE)
    summary, _, body = parts[0].partition("\n")
    found = {"summary": summary.strip(), "body": body.strip()}
    return found | {parts[i]: parts[i + 1] for i in range(1, len(parts), 2)}


def test_the_public_names_are_ops_and_their_vocabulary():
    others = set(NAMES) - set(OPS)
    assert OPS
    assert not [name for name in NAMES if inspect.ismodule(getattr(ops, name))]
    assert dir(ops) == NAMES
    for name in others:
        value = getattr(ops, name)
        if isinstance(value, type):
            assert value.__doc__, name
        else:
            assert name.isupper(), f"ops.{name} is neither an op, a class, nor a constant"


# Each order of imports in an interpreter that knows nothing of scanmax; what it stands on is
# imported once.
IN_EVERY_ORDER = """
import os, sys, traceback
import flax.linen, jax

for lines in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            exec(lines, {})
        except BaseException:
            print(lines, traceback.format_exc(), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


def test_an_op_wins_over_the_family_of_its_name():
    """`ops.softmax` is the op, whatever of the family `softmax` is imported before or after."""
    public = "from scanmax import ops; from scanmax.ops import reference"
    check = "assert callable(ops.softmax) and callable(reference.softmax)"
    orders = []
    for first in (
        "from scanmax.ops.softmax.positive import softmax_one",
        "import scanmax.ops.softmax.sparse",
        "import importlib; importlib.import_module('scanmax.ops.softmax')",
        "from scanmax.ops.reference.softmax import sparse",
        "import scanmax.ops.reference.softmax.positive",
    ):
        orders += ["; ".join([first, public, check]), "; ".join([public, first, check])]
    process = subprocess.run(
        [sys.executable, "-c", IN_EVERY_ORDER, *orders], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("name", OPS)
def test_op_is_jitted_and_annotated(name):
    function = getattr(ops, name)
    assert hasattr(function, "lower"), f"ops.{name} is not jitted"
    parameters = inspect.signature(function).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    for parameter in parameters:
        if parameter.kind is not parameter.KEYWORD_ONLY:
            assert parameter.annotation is not parameter.empty, f"{parameter.name} has no shape"


@pytest.mark.parametrize("name", OPS)
def test_op_has_a_twin_of_the_same_signature(name):
    assert hasattr(reference, name), f"ops.reference has no {name}"
    twin = getattr(reference, name)
    assert not hasattr(twin, "lower"), "a reference is never jitted"
    assert room_of(twin.__module__, "scanmax.ops.reference") == room_of(
        getattr(ops, name).__module__, "scanmax.ops"
    )

    def signature(function):
        parameters = inspect.signature(function).parameters
        return [
            (key, value.kind, value.default)
            for key, value in parameters.items()
            if key not in BACKEND_OPTIONS
        ]

    assert signature(twin) == signature(getattr(ops, name))
    assert not set(BACKEND_OPTIONS) & set(inspect.signature(twin).parameters)
    assert twin.__doc__


@pytest.mark.parametrize("name", OPS)
def test_op_is_documented(name):
    parts = described(name)
    assert parts["summary"].endswith("."), "the first line is a sentence"
    missing = [section for section in SECTIONS if section not in parts]
    assert not missing, f"ops.{name} lacks {missing}"
    assert [part for part in parts if part in SECTIONS] == list(SECTIONS), "sections in this order"
    assert parts["body"], "the mathematics follows the first line"
    entries = re.findall(r"^ {2}(\w[\w, ]*):", parts["Args"], flags=re.MULTILINE)
    described_names = [entry.strip() for line in entries for entry in line.split(",")]
    assert described_names == list(inspect.signature(getattr(ops, name)).parameters)


@pytest.mark.parametrize("name", OPS)
def test_op_cites_a_known_paper(name):
    cited = re.findall(r"[a-z0-9-]+", described(name)["Reference"].strip().split("\n")[0])
    assert cited, f"ops.{name} cites nothing"
    assert set(cited) <= set(papers.TITLES)


@pytest.mark.parametrize("name", OPS)
def test_example_runs(name):
    found = doctest.DocTestParser().get_doctest(
        inspect.getdoc(getattr(ops, name)), {}, f"ops.{name}", None, 0
    )
    assert found.examples, f"ops.{name} has no runnable example"
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found).failed == 0


def compared_ops() -> set[str]:
    """Ops that a suite of tests/ops compares, or that a module there calls beside their twins."""
    found = set()
    for path in sorted((TESTS / "ops").rglob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"api_walk_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        suites = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, OpSuite) and value.__test__
        ]
        text = path.read_text()
        for name in OPS:
            op, twin = getattr(ops, name), getattr(reference, name)
            in_suite = any((s.op is op and s.reference is twin) or s.step is op for s in suites)
            by_hand = f"ops.{name}(" in text and f"reference.{name}(" in text
            # A helper that is given `ops` and `reference` in turn.
            in_turn = f"module.{name}(" in text
            if in_suite or by_hand or in_turn:
                found.add(name)
    return found


def test_every_op_is_compared_with_its_twin():
    missing = sorted(set(OPS) - compared_ops())
    assert not missing, f"no test in tests/ops compares {missing}"


def test_annotations_hold_for_the_arrays_of_the_suites():
    script = TESTS / "check_annotations.py"
    process = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
