"""Weights: peers' golden files, every kind of source, adaptation, and mistakes told together."""

import pathlib

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.agreement import assert_agrees, read_run

import scanmax
from scanmax.errors import UserError
from scanmax.models.weights import fit_weights, load_weights, sources
from scanmax.models.weights.table import Row, causal_conv, conv, convert, linear, pointwise

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
VIT = {"img_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2, "num_classes": 10}
CONVNEXT = {"num_classes": 10, "depths": (1, 1, 1, 1), "dims": (8, 12, 16, 32)}
MAMBA2 = {"vocab_size": 24, "dim": 16, "depth": 2, "heads": 4, "state_size": 8, "groups": 2}
REGISTERS = {
    **VIT,
    **{"dim": 16, "depth": 1, "img_size": 16},
    **{"pool": "avg", "reg_tokens": 3, "no_embed_class": True},
}
PEERS = {
    "deit": ("deit_tiny_patch16_224", VIT),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", VIT),
    "deit_registers": ("deit_tiny_patch16_224", REGISTERS),
    "convnext": ("convnext_tiny", CONVNEXT),
    "mamba": ("mamba_130m", {"vocab_size": 24, "dim": 16, "depth": 2, "d_state": 4}),
    "mamba2": ("mamba2_130m", MAMBA2),
    "mamba2_limited": ("mamba2_130m", {**MAMBA2, "groups": 1, "dt_limit": (0.02, 0.05)}),
}


def weights(name):
    return dict(read_run(GOLDEN / f"{name}.npz").weights)


def deit(**overrides):
    return scanmax.create_model("deit_tiny_patch16_224", **{**VIT, **overrides})


@pytest.mark.parametrize("name", PEERS)
def test_golden(name):
    """The logits and gradients of timm and transformers, from tests/golden/make_peers.py."""
    kind, fields = PEERS[name]
    assert_agrees(scanmax.create_model(kind, **fields), read_run(GOLDEN / f"{name}.npz"))


def test_weights_go_back_to_the_layout_that_they_came_from(tmp_path):
    """Through a file of ours and scanned layers, to timm's names behind torch's wrappers."""
    source = {f"module._orig_mod.{name}": x for name, x in weights("deit").items()}
    model = deit(scan_layers=True)
    variables = load_weights(model, source)
    file = tmp_path / "timm.safetensors"
    scanmax.save_weights(variables, file, model=model, like=source)
    written = sources.read_tensors(file)
    assert set(written) == set(source)
    for name, tensor in source.items():
        np.testing.assert_array_equal(written[name], tensor, name)
        assert written[name].dtype == tensor.dtype

    fewer = {name: x for name, x in source.items() if not name.endswith("pos_embed")}
    for like, told in (
        ({**fewer, "module.other": np.zeros(1)}, "module.other: no row of the key table knows it"),
        (fewer, "params/pos_embed.*: no tensor of the layout holds it"),
        (
            {name: x[:3] if name.endswith("head.bias") else x for name, x in source.items()},
            r"head.bias: has shape \(3,\), ours is \(10,\)",
        ),
    ):
        with pytest.raises(UserError, match=told):
            scanmax.save_weights(variables, file, model=model, like=like)
    with pytest.raises(UserError, match="needs model="):
        scanmax.save_weights(variables, file, like=source)
    other = scanmax.create_model("lm_tiny", depth=1)
    with pytest.raises(UserError, match="knows no other layout"):
        scanmax.save_weights(variables, file, model=other, like=source)


def test_original_convnext_names():
    model = scanmax.create_model("convnext_tiny", **CONVNEXT)
    renamed = {}
    for name, tensor in weights("convnext").items():
        for old, new in (
            ("stem.", "downsample_layers.0."),
            (".blocks.", "."),
            (".conv_dw.", ".dwconv."),
            (".mlp.fc", ".pwconv"),
            ("head.norm.", "norm."),
            ("head.fc.", "head."),
        ):
            name = name.replace(old, new)
        parts = name.split(".downsample.")
        if len(parts) == 2:
            name = f"downsample_layers.{parts[0].removeprefix('stages.')}.{parts[1]}"
        renamed[name] = tensor
    assert "downsample_layers.3.1.weight" in renamed
    chex.assert_trees_all_equal(
        load_weights(model, renamed), load_weights(model, weights("convnext"))
    )


def test_original_mamba2_names():
    """state-spaces' checkpoints say `embedding`, and keep the tied head."""
    model = scanmax.create_model("mamba2_130m", **MAMBA2)
    source = weights("mamba2")
    renamed = {name.replace("embeddings", "embedding"): x for name, x in source.items()}
    expected = load_weights(model, source)
    chex.assert_trees_all_equal(load_weights(model, renamed), expected)
    del renamed["lm_head.weight"]
    chex.assert_trees_all_equal(load_weights(model, renamed), expected)
    untied = scanmax.create_model("mamba2_130m", tied=False, **MAMBA2)
    head = load_weights(untied, source)["params"]["head"]["kernel"]
    chex.assert_trees_all_equal(nn.unbox(head), source["lm_head.weight"].T)
    with pytest.raises(UserError, match=r"lm_head.weight: differs from .*embeddings"):
        load_weights(model, {**source, "lm_head.weight": 2 * source["lm_head.weight"]})


class AdaptationTest(chex.TestCase):
    """What differs is refused with a hint, and adapted on request."""

    def setUp(self):
        super().setUp()
        self.tensors = weights("deit")
        self.variables = nn.unbox(load_weights(deit(), self.tensors))

    def test_fresh_head(self):
        model = deit(num_classes=7)
        with self.assertRaisesRegex(UserError, r"head.bias: has shape .*adapt=\['head'\]"):
            load_weights(model, self.tensors)
        loaded = nn.unbox(load_weights(model, self.tensors, adapt="head", key=jax.random.key(1)))
        chex.assert_shape(loaded["params"]["head"]["kernel"], (32, 7))
        self.assertGreater(float(jnp.abs(loaded["params"]["head"]["kernel"]).min()), 0)
        other = nn.unbox(load_weights(model, self.tensors, adapt="head", key=jax.random.key(2)))
        self.assertFalse(
            bool((loaded["params"]["head"]["kernel"] == other["params"]["head"]["kernel"]).any())
        )
        for variables in (loaded, other, self.variables):
            variables["params"] = {k: v for k, v in variables["params"].items() if k != "head"}
        chex.assert_trees_all_equal(loaded, other, self.variables)

    def test_dropped_and_missing_heads(self):
        bare = deit(num_classes=0)
        with self.assertRaisesRegex(UserError, "the model has no params/head/kernel"):
            load_weights(bare, self.tensors)
        loaded = load_weights(bare, self.tensors, adapt=["head"])
        self.assertNotIn("head", loaded["params"])
        without = {k: v for k, v in self.tensors.items() if not k.startswith("head")}
        with self.assertRaisesRegex(UserError, "params/head/kernel: no tensor fills it"):
            load_weights(deit(), without)
        load_weights(deit(), without, adapt=["head"])

    def test_positions(self):
        model = deit(img_size=(48, 32))
        with self.assertRaisesRegex(UserError, r"pos_embed: has shape .*adapt=\['positions'\]"):
            load_weights(model, self.tensors)
        loaded = nn.unbox(load_weights(model, self.tensors, adapt=["positions"]))
        table = self.variables["params"]["pos_embed"]
        expected = scanmax.ops.resample_positions(table, (4, 4), (6, 4), prefix_tokens=1)
        chex.assert_trees_all_close(loaded["params"]["pos_embed"], expected)
        # A table that fits the images of a model is what the model itself resamples to.
        images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 48, 32, 3)), jnp.float32)
        chex.assert_trees_all_close(
            jax.jit(model.apply)(loaded, images),
            jax.jit(deit().apply)(self.variables, images),
            rtol=1e-5,
        )
        with self.assertRaisesRegex(UserError, "a square grid"):
            tensors = {**self.tensors, "pos_embed": self.tensors["pos_embed"][:, :-1]}
            load_weights(model, tensors, adapt=["positions"])

    def test_positions_of_a_grid_that_is_no_square(self):
        """16 places may be 4 x 4 or 2 x 8: what cannot be told is asked for, never guessed."""
        wide = deit(img_size=(16, 64))  # 2 x 8
        tensors = {**self.tensors}
        table = self.variables["params"]["pos_embed"]

        def loaded(model, **options):
            options = {"adapt": ["positions"]} | options
            return nn.unbox(load_weights(model, tensors, **options))["params"]["pos_embed"]

        for model, grid, source in (
            (deit(), (4, 4), (2, 8)),
            (wide, (2, 8), (2, 8)),
            (wide, (2, 8), (4, 4)),
            (deit(img_size=(48, 32)), (6, 4), (8, 2)),
        ):
            expected = scanmax.ops.resample_positions(table, source, grid, prefix_tokens=1)
            chex.assert_trees_all_close(loaded(model, position_grid=source), expected)
        chex.assert_trees_all_equal(loaded(deit()), table)
        with self.assertRaisesRegex(
            UserError, r"may be 4 x 4 or 2 x 8; say position_grid=\(Y, X\)"
        ):
            loaded(wide)
        with self.assertRaisesRegex(UserError, r"and a grid of 3 x 5"):
            loaded(wide, position_grid=(3, 5))
        with self.assertRaisesRegex(UserError, r"is of adapt=\['positions'\] alone"):
            loaded(wide, position_grid=(2, 8), adapt=[])
        tensors["pos_embed"] = self.tensors["pos_embed"][:, :-1]
        chex.assert_equal(loaded(wide, position_grid=(5, 3)).shape, table.shape)
        with self.assertRaisesRegex(UserError, r"a square grid; say position_grid"):
            loaded(wide)

    def test_another_mixer_keeps_what_is_around_it(self):
        """Of timm to a model of states, and from a file of ours back to one of attention."""
        model = deit(mixer="nc_ssd")
        with self.assertRaisesRegex(UserError, r"adapt=\['mixer'\] takes it"):
            load_weights(model, self.tensors)
        variables, fit = fit_weights(model, self.tensors, adapt="mixer", key=jax.random.key(1))
        whole = nn.unbox(load_weights(deit(), self.tensors))
        for block in ("block_00", "block_01"):
            ours, theirs = (nn.unbox(tree)["params"][block] for tree in (variables, whole))
            for name in ("norm1", "norm2", "mlp"):
                chex.assert_trees_all_equal(ours[name], theirs[name])
        self.assertTrue(fit.fresh)
        self.assertTrue(all("/mixer/" in path for path in (*fit.fresh, *fit.dropped)))
        self.assertIn("params/block_00/mixer/qkv/kernel", fit.dropped)
        self.assertEqual(set(fit.fresh) & set(fit.taken), set())
        back, fit = fit_weights(deit(), variables, adapt="mixer", key=jax.random.key(1))
        self.assertIn("params/block_00/mixer/qkv/kernel", fit.fresh)
        np.testing.assert_array_equal(
            nn.unbox(back)["params"]["head"]["kernel"], whole["params"]["head"]["kernel"]
        )

    def test_a_state_space_mixer_starts_from_attention(self):
        """Values, keys and queries are x, B and C where the sizes are the attention's."""
        sizes = {"expand": 1.0, "groups": 2, "state_size": 16}
        own = nn.unbox(self.variables)
        for mixer, source in (("nc_ssd", own), ("ssd", self.tensors)):
            scanned = source is self.tensors
            model = deit(mixer=mixer, mixer_options={mixer: sizes}, scan_layers=scanned)
            variables, fit = fit_weights(model, source, adapt="mixer", key=jax.random.key(1))
            path = "params/block_01/mixer/in_proj/kernel"
            self.assertIn(path, fit.adapted)
            self.assertNotIn(path, fit.fresh)
            self.assertIn("params/block_01/mixer/A_log", fit.fresh)
            self.assertFalse(fit.dropped)
            params = nn.unbox(variables)["params"]
            block = jax.tree.map(lambda leaf: leaf[1], params["blocks"]) if scanned else None
            found = (block or params["block_01"])["mixer"]
            gate, x, B, C, dt = np.split(found["in_proj"]["kernel"], (32, 64, 96, 128), axis=1)
            query, key, value = np.split(self.tensors["blocks.1.attn.qkv.weight"].T, 3, axis=1)
            for ours, theirs in ((x, value), (B, key), (C, query)):
                np.testing.assert_array_equal(ours, theirs)
            self.assertGreater(np.abs(gate).min(), 0)
            self.assertEqual(dt.shape, (32, 2))
            out = self.tensors["blocks.1.attn.proj.weight"].T
            np.testing.assert_array_equal(found["out_proj"]["kernel"], out)

    def test_input_channels(self):
        kernel = self.variables["params"]["patch_embed"]["kernel"]
        with self.assertRaisesRegex(UserError, r"adapt=\['input_channels'\]"):
            load_weights(deit(), self.tensors, (32, 32, 1))
        gray, many = (
            nn.unbox(load_weights(deit(), self.tensors, (32, 32, n), adapt=["input_channels"]))[
                "params"
            ]["patch_embed"]["kernel"]
            for n in (1, 5)
        )
        chex.assert_trees_all_close(gray[:, :, 0], kernel.sum(2), rtol=1e-6, atol=1e-6)
        repeated = jnp.concatenate([kernel, kernel[:, :, :2]], axis=2)
        chex.assert_trees_all_close(many, repeated * 3 / 5, rtol=1e-6)

    def test_own_files_adapt_too(self):
        model = deit(num_classes=7, img_size=48)
        loaded = load_weights(
            model, self.variables, (48, 48, 1), adapt=["head", "positions", "input_channels"]
        )
        chex.assert_shape(nn.unbox(loaded)["params"]["pos_embed"], (37, 32))

    def test_unknown_adaptation(self):
        with self.assertRaisesRegex(UserError, "adapt='heads' is not one of head, positions"):
            load_weights(deit(), self.tensors, adapt="heads")


class MistakesTest(chex.TestCase):
    def test_all_mismatches_are_told_together(self):
        tensors = weights("deit")
        tensors["blocks.0.norm1.weight"] = np.zeros(31, np.float32)
        tensors["blocks.7.norm1.weight"] = np.zeros(32, np.float32)
        tensors["blocks.0.attn.mystery"] = np.zeros(1, np.float32)
        tensors["fc_norm.bias"] = tensors["norm.bias"]
        del tensors["blocks.1.mlp.fc1.bias"]
        with self.assertRaises(UserError) as caught:
            load_weights(deit(), tensors)
        first, *lines = str(caught.exception).splitlines()
        self.assertIn("5 mismatches with VisionTransformer", first)
        self.assertEqual(
            sorted(line.strip() for line in lines),
            [
                "blocks.0.attn.mystery: no row of the key table knows this tensor",
                "blocks.0.norm1.weight: has shape (31,), ours is (32,) "
                "(params/block_00/norm1/scale)",
                "blocks.7.norm1.weight: the model has no params/block_07/norm1/scale",
                "fc_norm.bias: the model has no params/fc_norm/bias",
                "params/block_01/mlp/fc1/bias: no tensor fills it, blocks.1.mlp.fc1.bias there",
            ],
        )

    def test_values_that_are_no_weights(self):
        bias = weights("deit")["norm.bias"]
        for value, message in (
            (np.where(np.arange(32) == 3, np.nan, bias), "holds values that are not finite"),
            (np.where(np.arange(32) == 3, -np.inf, bias), "holds values that are not finite"),
            (bias.astype(np.complex64), "is complex64, expected floating point"),
            (bias.astype(np.int8), "is int8, expected floating point"),
            (np.array(["a"] * 32), "is <U1, expected floating point"),
        ):
            with self.assertRaisesRegex(UserError, f"1 mismatch .*\n  norm.bias: {message}"):
                load_weights(deit(), {**weights("deit"), "norm.bias": value})
        variables = nn.unbox(load_weights(deit(), weights("deit")))
        variables["params"]["norm"]["bias"] = variables["params"]["norm"]["bias"] * np.nan
        with self.assertRaisesRegex(UserError, "params/norm/bias: holds values that are not"):
            load_weights(deit(), variables)
        with self.assertRaisesRegex(UserError, "params/norm/bias holds 1e.05, which float16"):
            half = deit(param_dtype=jnp.float16)
            load_weights(half, {**weights("deit"), "norm.bias": np.full(32, 1e5, np.float32)})

    def test_families_without_a_table(self):
        model = scanmax.create_model("lm_tiny")
        with self.assertRaisesRegex(UserError, "'lm' has no key table"):
            load_weights(model, {"a": np.zeros(1)})

    def test_input_shapes(self):
        with self.assertRaisesRegex(UserError, r"expected \(Y, X, channels\)"):
            load_weights(deit(), weights("deit"), (32, 32))


class TableTest(chex.TestCase):
    def test_layouts(self):
        x = np.arange(24.0).reshape(6, 4)
        chex.assert_trees_all_equal(linear(x, (4, 3, 2)), x.T.reshape(4, 3, 2))
        chex.assert_trees_all_equal(pointwise(x, (1, 1, 4, 6)), x.T[None, None])
        chex.assert_trees_all_equal(pointwise(x[:, :, None, None], (4, 6)), x.T)
        chex.assert_trees_all_equal(causal_conv(x[:, None], (4, 6)), x.T)
        with self.assertRaisesRegex(ValueError, r"has shape \(6, 4\), ours is \(6, 4\)"):
            linear(x, (6, 4))
        with self.assertRaises(ValueError):
            conv(x.reshape(2, 3, 2, 2), (2, 2, 2, 3))

    def test_one_tensor_for_several_paths(self):
        x = np.arange(24.0).reshape(6, 4)
        rows = (Row(r"in_proj", ("z", "x"), linear), Row(r"counter", ()))
        arrays, problems = convert({"in_proj": x, "counter": x}, rows, {"z": (4, 2), "x": (4, 4)})
        self.assertFalse(problems)
        chex.assert_trees_all_equal(arrays, {"z": x[:2].T, "x": x[2:].T})
        _, problems = convert({"in_proj": x}, rows, {"z": (4, 2), "x": (4, 5)})
        self.assertEqual(len(problems), 1)

    def test_hub_ids(self):
        match = sources.HUB_ID.fullmatch("hf_hub:timm/deit_tiny.fb_in1k@main")
        self.assertEqual((match["id"], match["revision"]), ("timm/deit_tiny.fb_in1k", "main"))
        self.assertIsNone(sources.HUB_ID.fullmatch("a/b/c"))

    def test_tensors_fill_the_slices_of_one_array(self):
        key, value = np.arange(8.0).reshape(4, 2), np.arange(8.0).reshape(4, 2) + 8
        rows = (
            Row(r"k", "both", linear, part=(0, 1)),
            Row(r"v", "both", linear, part=(1, 1)),
            Row(r"other", "both", linear, part=(1, 1)),
        )
        arrays, problems = convert({"v": value, "k": key}, rows, {"both": (2, 2, 4)})
        assert not problems
        np.testing.assert_array_equal(arrays["both"], np.stack([key.T, value.T], 1))
        _, problems = convert({"v": value}, rows, {"both": (2, 2, 4)})
        assert problems == [("both", "both: no tensor fills slice [0] of it")]
        _, problems = convert({"v": value, "k": key, "other": key}, rows, {"both": (2, 2, 4)})
        assert problems == [("both", "other: slice 1 of both is already filled")]
