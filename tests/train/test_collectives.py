"""The table of collectives in docs/sharding.md is that of the compiled programs."""

import functools
import importlib.util
import pathlib

import jax
import pytest

from scanmax.train.pod import topology_devices

PATH = pathlib.Path(__file__).parents[2] / "docs" / "make_sharding.py"
SPEC = importlib.util.spec_from_file_location("make_sharding_page", PATH)
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)

CELLS = [(name, preset) for name, (*_, presets) in page.MODELS.items() for preset in presets]
# One of each idea; the others are slow together.
QUICK = [("vit", "fsdp"), ("vit", "fsdp_context"), ("lm", "fsdp_tp"), CELLS[-1]]


@functools.cache
def compiled(name, preset):
    run = page.plan(name, preset)
    return run, page.said(run)


def check_written(which, name, preset, found):
    start = f"| {name} | {preset} | "
    written = [line for line in page.written(which) if line.startswith(start)]
    assert written == page.rows(name, preset, found), f"run: python docs/make_sharding.py {which}"


def check(name, preset):
    run, found = compiled(name, preset)
    check_written("cpu", name, preset, found)
    # No activation is gathered: weights are, at most a layer's largest or the table of tokens.
    weights = max(
        leaf.size // (leaf.shape[0] if path[1].key == "blocks" else 1) * 4
        for path, leaf in jax.tree_util.tree_leaves_with_path(run.shapes.params)
    )
    gathered = [entry.bytes for entry in found if entry.kind == "all-gather"]
    assert max(gathered, default=0) <= weights


@pytest.mark.parametrize(("name", "preset"), QUICK)
def test_collectives_are_as_written(name, preset):
    check(name, preset)


def test_context_passes_keys_round_and_experts_swap_tokens():
    kinds = {entry.kind for entry in compiled("vit", "fsdp_context")[1]}
    assert "collective-permute" in kinds
    assert "all-to-all" in {entry.kind for entry in compiled(*CELLS[-1])[1]}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), [cell for cell in CELLS if cell not in QUICK])
def test_the_other_collectives_are_as_written(name, preset):
    check(name, preset)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), QUICK)
def test_what_a_tpu_says_is_as_written(name, preset):
    found = page.said(page.plan(name, preset, topology_devices("v5e:2x4")))
    check_written("tpu", name, preset, found)
    # Gradients of split parameters are scattered.
    assert "reduce-scatter" in {entry.kind for entry in found}
