"""`python -m scanmax.models`, and the multiply-adds that it prints."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from scanmax.models import __main__ as cli
from scanmax.models import create_model, model_info
from scanmax.models.analysis import count_multiply_adds, default_multiply_adds, module_table
from scanmax.models.mixers import MIXERS

# Billions, as the papers print them.
PUBLISHED = {
    "deit_tiny_patch16_224": (1.3, 1),
    "deit_small_patch16_224": (4.6, 1),
    "deit_base_patch16_224": (17.6, 1),
    "convnext_tiny": (4.5, 1),
    "convnext_small": (8.7, 1),
    "convnext_base": (15.4, 1),
    "convnext_large": (34.4, 1),
    "convnext_xlarge": (60.9, 1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_adds_are_the_papers(name):
    value, digits = PUBLISHED[name]
    assert round(default_multiply_adds(name) / 1e9, digits) == value


def test_loops_lowerings_and_masks_count_alike():
    # By hand: embed 4 patches of 2x2x3 to 8, two blocks on 5 tokens, head of 3.
    fields = {"img_size": 4, "patch_size": 2, "dim": 8, "depth": 2, "heads": 2, "num_classes": 3}
    model = create_model("vit_tiny_patch16_224", **fields)
    example = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    block = 5 * (4 * 8 * 8) + 2 * 5 * 5 * 8 + 5 * 2 * 8 * 32
    by_hand = 4 * 12 * 8 + 2 * block + 8 * 3
    for scan_layers in (False, True):
        for remat in (False, True):
            same = model.clone(scan_layers=scan_layers, remat=remat)
            assert count_multiply_adds(same, example) == by_hand
    # A scan counts as its recurrence, whatever form the length chooses.
    lm = create_model("mamba2_130m", dim=8, depth=1, heads=2, state_size=4, vocab_size=5)
    tokens = [
        count_multiply_adds(lm, jax.ShapeDtypeStruct((1, length), jnp.int32)) / length
        for length in (8, 200)
    ]
    assert tokens[0] == tokens[1] == 8 * (32 + 8 + 2) + 4 * 24 + 2 * 16 * 4 + 16 * 8 + 8 * 5


def test_the_table_names_modules_and_counts():
    fields = {"dims": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "num_classes": 3}
    table = module_table(
        create_model("convnext_tiny", **fields), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    )
    assert "stage3_block_00" in table
    assert "Total Parameters" in table


def test_list_and_show_print_what_the_registry_knows(capsys):
    assert cli.main(["list", "deit_tiny_p*"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "parameters", "GFLOPs", "input", "paper"]
    assert line.split() == [
        "deit_tiny_patch16_224", "5,717,416", "1.25", "224", "x", "224", "x", "3", "deit",
    ]  # fmt: skip
    assert cli.main(["show", "convnext_tiny"]) == 0
    shown = capsys.readouterr().out
    assert "stage3_block_02" in shown
    for feature in model_info("convnext_tiny").features:
        side = 224 // feature.stride
        assert f"stride {feature.stride:3}  (1, {side}, {side}, {feature.channels})" in shown


def test_mixers_prints_what_each_computes(capsys):
    assert cli.main(["mixers", "*attention"]) == 0
    shown = capsys.readouterr().out
    for name in ("attention", "linear_attention"):
        assert f"{name:24} cgp     {MIXERS[name].cost:12} {MIXERS[name].formula}\n" in shown
    assert "nc_ssd" not in shown


def test_mixers_are_narrowed_and_shown(capsys):
    assert cli.main(["mixers", "mamba*", "--causal"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["mamba", "mamba2"]
    assert lines[3] == ""
    assert cli.main(["show", "retention"]) == 0
    shown = capsys.readouterr().out
    assert "causal, generates, packs; papers: rmt-masa" in shown
    assert "  value_factor = 2.0: width of values and gate over the model's.\n" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "deit_tinny_patch16_224"], "did you mean 'deit_tiny_patch16_224'"),
        (["list", "nothing*"], "no model fits 'nothing*'"),
        (["mixers", "atention"], "did you mean 'attention'"),
        (["mixers", "xca", "--causal"], "no mixer that fits 'xca' is --causal"),
    ],
)
def test_a_wrong_name_is_one_line_and_status_2(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scanmax-models", *arguments])
    assert cli.run() == 2
    assert message in capsys.readouterr().err.strip()


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "scanmax.models", "show", "vit_tinyy"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
