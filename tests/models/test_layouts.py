"""Layouts by name: what `save_weights` writes of every family is read back bit for bit."""

import importlib.util
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make_authors
from parity.agreement import assert_read_back

import scanmax
from scanmax.errors import UserError
from scanmax.models.registry import FAMILY_MODULES
from scanmax.models.shrink import shrink
from scanmax.models.weights import load_weights, read_tensors, save_weights
from scanmax.models.weights.layout import spellings
from scanmax.models.weights.load import key_table, named_leaves
from scanmax.models.weights.table import Row

TEXT = {"dim": 16, "depth": 2, "vocab_size": 24}
BERT = {**TEXT, "heads": 2, "mlp_hidden": 32, "embedding_dim": 16}
T5 = {"vocab_size": 24, "dim": 16, "head_dim": 4, "heads": 2, "mlp_hidden": 12}
T5 |= {"encoder_depth": 2, "decoder_depth": 2}
# Where the first variant of a family does not show all: other stems, norms, gates and heads.
RESNETS = ("resnet18", "resnet50d", "skresnet18", "ecaresnet26t", "seresnet50")
OTHERS = {
    "convbert": [("convbert_small", {**BERT, "mlp_groups": 2, "num_classes": 3})],
    "convnext": [("convnext_tiny", {"dims": (4, 8, 8, 8), "depths": (1, 1, 2, 1)})],
    "mamba": [("mamba_130m", {**TEXT, "tied": tied}) for tied in (True, False)],
    "mamba2": [("mamba2_130m", {**TEXT, "heads": 4, "state_size": 8, "groups": 2})],
    "mixer": [("mixer_s32_224", None), ("gmixer_24_224", None), ("resmlp_12_224", None)],
    "resnet": [(name, None) for name in RESNETS],
    "rwkv_clip_text": [("rwkv_clip_text_b32", {**TEXT, "heads": 2, "mlp_hidden": 32})],
    "squeezebert": [("squeezebert_base", {**BERT, "num_classes": 3})],
    "t5": [(name, T5) for name in ("t5_small", "t5_v1_1_small")]
    + [("mu_330m", {**T5, "heads": 4, "kv_heads": 2})],
    "unireplknet": [("unireplknet_a", None), ("unireplknet_a", {"merged": True})],
    "vit": [
        ("deit_tiny_distilled_patch16_224", None),
        ("vit_small_patch16_18x2_224", {"layer_scale": 0.1}),
        ("vit_tiny_patch16_224", {"reg_tokens": 3, "pool": "avg", "no_embed_class": True}),
        ("vit_tiny_patch16_224", {"stem": "hmlp"}),
    ],
}


def families():
    """Families with a key table, by the name of their file."""
    for module in FAMILY_MODULES:
        family = module.rpartition(".")[2]
        if importlib.util.find_spec(f"scanmax.models.weights.{family}") is not None:
            yield family


# Those whose authors' names are kept are read back there, tests/models/vision/test_authors.py.
KEPT = {scanmax.model_info(name).family for name, _, _ in make_authors.MODELS.values()} - {"vssd"}


def cases():
    for family in families():
        for case in OTHERS.get(family, [] if family in KEPT else [(None, None)]):
            yield family, *case


def small(family, name, own):
    """A small model, and an example of what it reads."""
    listed = scanmax.list_models(family=family)
    name = name or min(listed, key=lambda each: scanmax.model_info(each).params)
    if scanmax.model_info(name).input_kind != "image":
        return scanmax.create_model(name, **own), jnp.zeros((1, 8), jnp.int32)
    fields, size = shrink(name)
    return scanmax.create_model(name, **{**fields, **(own or {})}), jnp.zeros((1, size, size, 3))


@pytest.mark.parametrize(("family", "name", "own"), [*cases()])
def test_every_layout_of_every_family_is_read_back(family, name, own):
    model, example = small(family, name, own)
    variables = jax.eval_shape(model.init, jax.random.key(0), example)
    shapes = {path: leaf.shape for path, leaf in named_leaves(variables)}
    layouts = key_table(model).layouts
    assert layouts, family
    assert_read_back(model, shapes, layouts)


def deit(**own):
    fields = {"img_size": 16, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2, "num_classes": 3}
    return scanmax.create_model("deit_tiny_patch16_224", **{**fields, **own})


@pytest.fixture(scope="module")
def variables():
    return jax.jit(deit().init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_a_file_in_timms_names_needs_no_model(variables, tmp_path):
    file = tmp_path / "x.safetensors"
    save_weights(variables, file, layout="timm")
    written = read_tensors(file)
    kernel = nn.unbox(variables)["params"]["block_01"]["mixer"]["qkv"]["kernel"]  # [D, 3, H, K]
    np.testing.assert_array_equal(
        written["blocks.1.attn.qkv.weight"], kernel.reshape(16, 48).T, strict=True
    )
    assert written["cls_token"].shape == (1, 1, 16)
    back = load_weights(deit(), file)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), back, variables))
    # Of scanned layers the same file, which a model with them reads.
    scanned = load_weights(deit(scan_layers=True), file)
    save_weights(scanned, tmp_path / "y.npz", layout="authors", model=deit())
    for name, tensor in read_tensors(tmp_path / "y.npz").items():
        np.testing.assert_array_equal(tensor, written[name], strict=True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layout": "tim"}, "layout='tim': did you mean 'timm'"),
        ({"layout": "transformers"}, "of these variables needs model=: no family's names fit"),
        ({"layout": "torchvision", "model": deit()}, "is not of VisionTransformer; known: authors"),
        ({"layout": "authors"}, "needs model=: they may be of dhvt or illama or"),
        ({"layout": "timm", "like": {}}, "takes layout= or like=, not both"),
    ],
)
def test_a_layout_that_cannot_be_is_told_in_a_line(variables, tmp_path, options, told):
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        save_weights(variables, tmp_path / "x.safetensors", **options)
    assert "\n" not in str(caught.value)


def test_what_a_layout_has_no_name_for_is_listed(tmp_path):
    model = deit(mixer="nc_ssd")
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    with pytest.raises(UserError) as caught:
        save_weights(variables, tmp_path / "x.safetensors", layout="timm", model=model)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("layout='timm' has no name for ")
    assert "  params/block_00/mixer/A_log" in lines
    assert not (tmp_path / "x.safetensors").exists()


def test_names_that_a_pattern_stands_for():
    found = [*spellings(r"a\.(?:x|y)(\d+)(?:\.z)?", [0, 12])]
    assert found[0] == ("a.x0.z", ("0",))
    assert {name for name, _ in found} == {
        f"a.{letter}{number}{end}" for letter in "xy" for number in (0, 12) for end in (".z", "")
    }
    last = [name for name, _ in spellings(r"a\.(?:x|y)(\d+)(?:\.z)?", [0, 12], is_last=True)]
    assert last[0] == "a.y0"
    assert [*spellings(r"(?:s(\d)|t([2-3]))w", [])][-1] == ("t3w", ("", "3"))
    assert [name for name, _ in spellings(r"b_(\d\d)", [0, 12])] == ["b_00", "b_12"]
    with pytest.raises(ValueError, match="nobody can tell which names"):
        [*spellings(r"a\.\w+", [0])]


def test_every_row_of_a_table_can_be_written():
    """No pattern of a row with a place is one that cannot be spelled, where names are written."""
    # These make images, and are not made small by name.
    for family in set(families()) - {"drwkv", "maxim", "scnet"}:
        model, _ = small(family, *OTHERS.get(family, [(None, None)])[0])
        table = key_table(model)
        for row in table.rows if table.layouts else ():
            assert isinstance(row, Row)
            if row.paths:
                assert next(spellings(row.pattern, [0]))
