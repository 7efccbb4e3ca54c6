"""The ledger names what exists, and claims of papers that need no training hold."""

import ast
import functools
import pathlib
import pkgutil

import chex
import jax
import jax.numpy as jnp
import pytest

from scanmax import ops, papers
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelSuite, OpSuite

ROOT = pathlib.Path(__file__).parents[1]
INHERITED = set(dir(OpSuite)) | set(dir(ModelSuite))


@functools.cache
def definitions(path: pathlib.Path) -> dict[str, ast.AST]:
    body = ast.parse(path.read_text()).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def has_test(node_id: str) -> bool:
    """Whether pytest would find that id (without running the file)."""
    file, *names = node_id.split("::")
    path = ROOT / file
    if not path.is_file():
        return False
    if not names:
        return True
    found = definitions(path).get(names[0])
    if found is None or len(names) == 1:
        return found is not None
    methods = {node.name for node in found.body if isinstance(node, ast.FunctionDef)}
    return names[1] in methods | INHERITED


def test_has_test_can_say_no():
    assert has_test("tests/test_papers.py::test_has_test_can_say_no")
    assert has_test("tests/test_registry.py::VitSuite::test_gradients_reach_every_parameter")
    assert not has_test("tests/test_nowhere.py")
    assert not has_test("tests/test_papers.py::test_that_is_missing")
    assert not has_test("tests/test_registry.py::VitSuite::test_that_is_missing")


@pytest.mark.parametrize("paper", papers.LEDGER, ids=lambda paper: paper.key)
def test_what_a_row_names_exists(paper):
    assert paper.key in papers.TITLES
    assert paper.covers
    assert paper.where
    assert paper.tests
    for name in paper.where:
        assert pkgutil.resolve_name(name) is not None
    for node_id in paper.tests:
        assert has_test(node_id), f"{paper.key}: {node_id} does not exist"


def test_a_paper_has_one_row():
    keys = [paper.key for paper in papers.LEDGER]
    assert len(keys) == len(set(keys))


def test_the_page_is_current():
    assert (ROOT / "docs/papers.md").read_text() == papers.table() + "\n", "run `make docs`"


@pytest.mark.parametrize(
    ("name", "gflops"),
    [
        ("deit_tiny_patch16_224", 1.3),
        ("deit_small_patch16_224", 4.6),
        ("deit_base_patch16_224", 17.6),
        ("convnext_tiny", 4.5),
        ("convnext_small", 8.7),
        ("convnext_base", 15.4),
        ("convnext_large", 34.4),
    ],
)
def test_published_multiply_adds(name, gflops):
    assert default_multiply_adds(name) / 1e9 == pytest.approx(gflops, abs=0.0501)


def test_sigmoid_attention_needs_its_bias():
    def scale(count, normalizer):
        tokens = jax.random.normal(jax.random.key(0), (3, count, 1, 16))
        y = ops.dot_product_attention(*tokens, normalizer=normalizer, form="parallel")
        return float(jnp.sqrt(jnp.mean(jnp.square(y))))

    with_bias, without = [], []
    for count in (64, 512, 2048):
        softmax = scale(count, "softmax")
        with_bias.append(scale(count, "sigmoid") / softmax)
        without.append(scale(count, ops.Sigmoid(bias=0.0)) / softmax)
    chex.assert_trees_all_close(with_bias, [with_bias[0]] * 3, rtol=0.25)
    assert all(1.0 < ratio < 2.0 for ratio in with_bias)
    assert 20 < without[2] / without[0] < 45, "thirty-two times the keys"
