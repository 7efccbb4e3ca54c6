"""Weights: every kind of source, and what is no source told in one line."""

import argparse
import pathlib
import sys
import tempfile
import types

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from parity.agreement import read_run

import scanmax
from scanmax.errors import UserError
from scanmax.models.weights import load_weights, read_tensors, save_weights

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
VIT = {"img_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2, "num_classes": 10}
CONVNEXT = {"num_classes": 10, "depths": (1, 1, 1, 1), "dims": (8, 12, 16, 32)}
MAMBA2 = {"vocab_size": 24, "dim": 16, "depth": 2, "heads": 4, "state_size": 8, "groups": 2}


def weights(name):
    return dict(read_run(GOLDEN / f"{name}.npz").weights)


def deit(**overrides):
    return scanmax.create_model("deit_tiny_patch16_224", **{**VIT, **overrides})


class SourcesTest(parameterized.TestCase):
    """Every kind of source gives the same variables."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.model = deit()
        self.tensors = weights("deit")
        self.variables = load_weights(self.model, self.tensors)

    def assert_loads(self, source, model=None, expected=None):
        loaded = load_weights(model or self.model, source)
        chex.assert_trees_all_equal(loaded, self.variables if expected is None else expected)

    def test_same_tree_as_init(self):
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        skeleton = jax.eval_shape(self.model.init, jax.random.key(0), images)
        chex.assert_trees_all_equal_shapes_and_dtypes(self.variables, skeleton)
        half = load_weights(deit(param_dtype=jnp.bfloat16), self.tensors)
        self.assertEqual({leaf.dtype for leaf in jax.tree.leaves(half)}, {jnp.dtype("bfloat16")})

    def test_files_of_peers(self):
        from safetensors.numpy import save_file

        save_file(self.tensors, self.folder / "model.safetensors")
        self.assert_loads(self.folder / "model.safetensors")
        self.assert_loads(str(self.folder))
        np.savez(self.folder / "w.npz", **self.tensors)
        self.assert_loads(self.folder / "w.npz")

    def test_shards(self):
        import json

        from safetensors.numpy import save_file

        names = sorted(self.tensors)
        index = {}
        for shard, part in enumerate((names[:10], names[10:])):
            save_file(
                {name: self.tensors[name] for name in part}, self.folder / f"{shard}.safetensors"
            )
            index |= dict.fromkeys(part, f"{shard}.safetensors")
        path = self.folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": index}))
        self.assert_loads(self.folder)

    def test_indices_of_shards(self):
        from safetensors.numpy import save_file

        index = self.folder / "model.safetensors.index.json"
        for text, message in (
            ("{", "no index of shards"),
            ("{}", "no index of shards: 'weight_map'"),
            ('{"weight_map": {"a": "../secret.safetensors"}}', r"names '\.\./secret.safetensors'"),
            ('{"weight_map": {"a": "/etc/secret.safetensors"}}', "safetensors files beside it"),
            ('{"weight_map": {"a": "pickle.bin"}}', "names 'pickle.bin'"),
            ('{"weight_map": {"a": "0.safetensors"}}', "names 0.safetensors, which is not there"),
        ):
            index.write_text(text)
            with self.assertRaisesRegex(UserError, message) as caught:
                load_weights(self.model, self.folder)
            self.assertNotIn("\n", str(caught.exception))
        for shard in "01":
            save_file(
                {"norm.bias": self.tensors["norm.bias"]}, f"{self.folder}/{shard}.safetensors"
            )
        index.write_text('{"weight_map": {"a": "0.safetensors", "b": "1.safetensors"}}')
        message = "norm.bias is in 0.safetensors and in 1.safetensors"
        with self.assertRaisesRegex(UserError, message):
            load_weights(self.model, self.folder)

    @parameterized.parameters(
        "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model."
    )
    def test_names_behind_wrappers(self, prefix):
        self.assert_loads({prefix + name: x for name, x in self.tensors.items()})
        # Beside a tensor that is not the model's, which is told.
        mixed = {prefix + name: x for name, x in self.tensors.items()} | {"ema.x": np.zeros(1)}
        with self.assertRaisesRegex(UserError, r"1 mismatch .*\n  ema.x: no row"):
            load_weights(self.model, mixed)

    def test_wrappers_inside_of_names_and_names_that_become_one(self):
        def wrap(name):
            return name.replace("blocks.0.", "blocks.0._orig_mod._checkpoint_wrapped_module.")

        wrapped = {wrap(name): x for name, x in self.tensors.items()}
        self.assertIn("blocks.0._orig_mod._checkpoint_wrapped_module.norm1.bias", wrapped)
        self.assert_loads(wrapped)
        twice = {**self.tensors, "module.norm.bias": self.tensors["norm.bias"]}
        with self.assertRaisesRegex(UserError, "module.norm.bias: norm.bias is norm.bias already"):
            load_weights(self.model, twice)

    def test_containers(self):
        halved = {name: x / 2 for name, x in self.tensors.items()}
        half = load_weights(self.model, halved)
        for source in (
            {"state_dict": self.tensors, "epoch": 3},
            {"state_dict": {"model": self.tensors}, "optimizer": {"state": {}}},
            {"model": {"state_dict": {"module." + k: v for k, v in self.tensors.items()}}},
        ):
            self.assert_loads(source)
        both = {"model": self.tensors, "model_ema": halved, "epoch": 3}
        with self.assertLogs("scanmax", "WARNING") as caught:
            self.assert_loads(both, None, half)
        self.assertIn("took 'model_ema', not 'model'; params_from=", caught.output[0])
        with self.assertNoLogs("scanmax", "WARNING"):
            for name, expected in (("model", self.variables), ("model_ema", half)):
                loaded = load_weights(self.model, both, params_from=name)
                chex.assert_trees_all_equal(loaded, expected)
            nested = {"state_dict": {"student": self.tensors, "teacher": halved}}
            loaded = load_weights(self.model, nested, params_from="teacher")
            chex.assert_trees_all_equal(loaded, half)
        for source, options, message in (
            (nested, {}, "params_from= names one of its trees: 'student', 'teacher'"),
            (both, {"params_from": "ema"}, "no tree 'ema'; .*: 'model', 'model_ema'"),
            (self.tensors, {"params_from": "model"}, "no tree 'model'; .* its trees: none"),
        ):
            with self.assertRaisesRegex(UserError, message) as caught:
                load_weights(self.model, source, **options)
            self.assertNotIn("\n", str(caught.exception))

    def test_mappings_of_torch(self):
        torch = pytest.importorskip("torch")
        state = {
            name: torch.nn.Parameter(torch.from_numpy(value).bfloat16())
            for name, value in self.tensors.items()
        }
        expected = {name: value.detach().float().numpy() for name, value in state.items()}
        expected = load_weights(self.model, expected)
        self.assert_loads(state, None, expected)
        self.assert_loads({"model": state}, None, expected)
        with self.assertRaisesRegex(UserError, r"not a Linear; .* give its state_dict\(\)"):
            load_weights(self.model, torch.nn.Linear(2, 2))
        with self.assertRaisesRegex(UserError, "norm.bias cannot be read: "):
            load_weights(self.model, {**state, "norm.bias": torch.zeros(32, device="meta")})

    def test_torch_files(self):
        torch = pytest.importorskip("torch")
        state = {name: torch.from_numpy(value) for name, value in self.tensors.items()}
        torch.save({"model": state, "epoch": 3}, self.folder / "w.pth")
        self.assert_loads(self.folder / "w.pth")
        rounded = {name: value.to(torch.bfloat16) for name, value in state.items()}
        torch.save(rounded, self.folder / "half.pt")
        expected = {name: value.float().numpy() for name, value in rounded.items()}
        self.assert_loads(self.folder / "half.pt", None, load_weights(self.model, expected))
        torch.save({"model": state, "model_ema": rounded}, self.folder / "both.pth")
        with self.assertLogs("scanmax", "WARNING"):
            self.assert_loads(self.folder / "both.pth", None, load_weights(self.model, expected))
        torch.save({"model": state, "hook": _Pickled()}, self.folder / "code.pth")
        with self.assertRaisesRegex(UserError, "code.pth' cannot be read"):
            load_weights(self.model, self.folder / "code.pth")
        self.enterContext(pytest.MonkeyPatch.context()).setitem(sys.modules, "torch", None)
        with self.assertRaisesRegex(UserError, r"a \.pth file needs torch \(pip install torch\)"):
            load_weights(self.model, self.folder / "w.pth")

    def test_files_of_training_scripts(self):
        """What timm's script writes, DeiT's, torchvision's and a compiled module's state."""
        torch = pytest.importorskip("torch")
        state = {name: torch.from_numpy(value) for name, value in self.tensors.items()}
        average = {name: value / 2 for name, value in state.items()}
        half = load_weights(self.model, {name: x / 2 for name, x in self.tensors.items()})
        args = argparse.Namespace(lr=1e-3, output=pathlib.PosixPath("runs"), data=["a"])
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]).state_dict()
        timm = {"epoch": 3, "arch": "deit", "state_dict": state, "optimizer": optimizer}
        timm |= {"args": args, "version": 2, "metric": np.float64(81.2), "amp_scaler": {}}
        wrapped = {f"module._orig_mod.{name}": value for name, value in state.items()}
        counted = {f"module.{name}": value for name, value in average.items()}
        counted["n_averaged"] = torch.tensor(7)
        for name, content, expected in (
            ("model_best.pth.tar", timm, self.variables),
            ("last.pth.tar", timm | {"state_dict_ema": average}, half),
            ("checkpoint.pth", {"model": state, "args": args, "scaler": {}}, self.variables),
            ("best_checkpoint.pth", {"model": state, "model_ema": average, "args": args}, half),
            ("compiled.pt", {"model": wrapped}, self.variables),
            ("model_9.pth", {"model": state, "model_ema": counted, "args": args}, half),
        ):
            torch.save(content, self.folder / name)
            self.assert_loads(self.folder / name, None, expected)
        taken = load_weights(self.model, self.folder / "last.pth.tar", params_from="state_dict")
        chex.assert_trees_all_equal(taken, self.variables)

    @parameterized.parameters("w.safetensors", "w.npz")
    def test_our_own_files(self, name):
        save_weights(self.variables, self.folder / name)
        self.assert_loads(self.folder / name)
        names = read_tensors(self.folder / name)
        self.assertIn("params/block_01/mixer/qkv/kernel", names)
        half = deit(param_dtype=jnp.bfloat16)
        rounded = load_weights(half, self.folder / name)
        save_weights(rounded, self.folder / f"half-{name}")
        self.assert_loads(self.folder / f"half-{name}", half, rounded)

    def test_orbax_folders(self):
        import orbax.checkpoint as ocp

        params = nn.unbox(self.variables["params"])
        state = {
            "params": params,
            "ema": jax.tree.map(lambda leaf: leaf / 2, params),
            "batch_stats": {},
            "opt_state": {"mu": jnp.zeros(3)},
            "step": jnp.array(7),
        }
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self.folder / "7" / "state", state)
        self.assert_loads(self.folder / "7" / "state")
        self.assert_loads(self.folder / "7")
        average = load_weights(self.model, self.folder / "7", params_from="ema")
        chex.assert_trees_all_equal(nn.unbox(average["params"]), state["ema"])
        with self.assertRaisesRegex(UserError, "neither safetensors files nor an orbax"):
            load_weights(self.model, self.folder)

    def test_scanned_and_looped_layers(self):
        scanned = deit(scan_layers=True)
        stacked = load_weights(scanned, self.tensors)
        kernel = stacked["params"]["blocks"]["mixer"]["qkv"]["kernel"]
        chex.assert_shape(kernel.unbox(), (2, 32, 3, 2, 16))
        self.assertEqual(kernel.names[0], "layers")
        self.assert_loads(stacked)
        self.assert_loads(self.variables, scanned, stacked)
        self.assert_loads(stacked, scanned, stacked)
        images = jnp.ones((1, 32, 32, 3))
        chex.assert_trees_all_close(
            jax.jit(scanned.apply)(stacked, images),
            jax.jit(self.model.apply)(self.variables, images),
            rtol=1e-5,
        )

    def test_stacked_and_single_layers_together(self):
        stacked = nn.unbox(load_weights(deit(scan_layers=True), self.tensors))
        params = nn.unbox(self.variables)["params"]
        mixed = {"params": {**stacked["params"], "block_01": params["block_01"]}}
        with self.assertRaises(UserError) as caught:
            load_weights(self.model, mixed)
        message = str(caught.exception)
        self.assertIn("params/block_01/mlp/fc1/bias is there besides", message)
        self.assertNotIn("block_00", message)
        flat = {f"params/{name}": value for name, value in {"a": np.zeros(1)}.items()}
        with self.assertRaisesRegex(UserError, "two tensors have the name params/a"):
            load_weights(self.model, {"params": {"a": np.zeros(1)}, **flat})

    def test_sources_that_cannot_be_read(self):
        (self.folder / "w.safetensors").write_bytes(b"12345678901234")
        (self.folder / "w.npz").write_bytes(b"no archive")
        (self.folder / "w.h5").write_bytes(b"")
        for source, message in (
            (self.folder / "w.safetensors", "cannot be read"),
            (self.folder / "w.npz", "cannot be read"),
            (self.folder / "w.h5", r"unknown kind of file; one of .*safetensors"),
            (self.folder / "none.npz", "no such file or folder; (known|did you mean)"),
        ):
            with self.assertRaisesRegex(UserError, message) as caught:
                load_weights(self.model, source)
            self.assertNotIn("\n", str(caught.exception))
        with self.assertRaisesRegex(UserError, "expected a .safetensors or .npz file"):
            save_weights(self.variables, self.folder / "w.h5")
        with self.assertRaisesRegex(UserError, 'expected "params"'):
            save_weights(self.variables["params"], self.folder / "w.npz")

    def test_hub(self):
        patch = self.enterContext(pytest.MonkeyPatch.context())
        patch.setitem(sys.modules, "huggingface_hub", None)
        with self.assertRaisesRegex(UserError, "needs huggingface_hub"):
            load_weights(self.model, "owner/name")
        np.savez(self.folder / "w.npz", **self.tensors)
        asked = []

        class Errors:
            class EntryNotFoundError(Exception):
                pass

            class LocalEntryNotFoundError(EntryNotFoundError):
                pass

        def download(repository, name, revision=None):
            asked.append((repository, name, revision))
            if revision == "offline":
                raise Errors.LocalEntryNotFoundError("many\nlines")
            if revision == "gone":
                raise OSError("404 Client Error\nmore")
            if name != "pytorch_model.bin":
                raise Errors.EntryNotFoundError
            return self.folder / "w.npz"

        hub = types.SimpleNamespace(hf_hub_download=download, errors=Errors)
        patch.setitem(sys.modules, "huggingface_hub", hub)
        self.assert_loads("owner/name@v1")
        self.assertEqual(asked[0], ("owner/name", "model.safetensors.index.json", "v1"))
        for revision, message in (
            ("offline", "the hub cannot be reached from here"),
            ("gone", "cannot be downloaded: 404 Client Error"),
        ):
            with self.assertRaisesRegex(UserError, message) as caught:
                load_weights(self.model, f"owner/name@{revision}")
            self.assertNotIn("\n", str(caught.exception))


class _Pickled:
    def __reduce__(self):
        return (print, ("code ran",))
