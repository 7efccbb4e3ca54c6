"""`ModelSuite`: what every registered model keeps, checked from the registry.

    class VitSuite(ModelSuite):
        family = "vit"
        small = (
            ModelCase(
                "deit_tiny_patch16_224",
                input_size=(32, 32, 3),
                other_inputs=((48, 32, 3),),
                overrides={"img_size": 32, "dim": 16, "depth": 2, "heads": 2},
            ),
        )

Every variant of the family is traced at full size, without a single multiplication: its parameter
count is the registry's to the last one, its maps are those that `features` announces, the head
comes off, bfloat16 stays bfloat16, every parameter carries logical axes and has a gradient. The
shrunken models of `small` then run: gradients reach every parameter as numbers, and remat,
scan_layers and bfloat16 give the model that they should. Two evaluations of one model are compared
in float64: in float32 a small gradient is the rest of large terms, rounded otherwise on every
processor.
"""

import dataclasses
import functools
import re
import unittest
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from scanmax.models import create_model, list_models, model_info
from scanmax.models.analysis import multiply_adds_of, soonest_traced
from scanmax.models.blocks import stack_blocks
from scanmax.models.layers import LOGICAL_AXES
from scanmax.models.multiply_adds import MULTIPLY_ADDS
from scanmax.testing import compare
from scanmax.testing.prng import QUICK_PRNG

# Compiling is what these tests cost: a cheap generator, and none of XLA's slow passes.
PRNG = QUICK_PRNG
COMPILER_OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# What training draws and evaluation does not.
RATES = ("drop_path_rate", "dropout_rate", "input_dropout_rate")
EXACT = {"dtype": jnp.float64, "param_dtype": jnp.float64}


@dataclasses.dataclass(frozen=True)
class ModelCase:
    """A registered model, made small enough to differentiate at once.

    Attributes:
      name: the registered name.
      overrides: fields that shrink it.
      input_size: shape of one example; None keeps the variant's.
      other_inputs: shapes of examples that it takes as well.
    """

    name: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    input_size: tuple[int, ...] | None = None
    other_inputs: Sequence[tuple[int, ...]] = ()

    def model(self, **overrides) -> nn.Module:
        return create_model(self.name, **{**self.overrides, **overrides})

    def inputs(self, shape: tuple[int, ...] | None = None) -> jax.Array:
        """A batch of two random examples."""
        info = model_info(self.name)
        shape = (2, *(shape or self.input_size or info.input_size))
        rng = np.random.default_rng(0)
        if info.input_kind == "image":
            return jnp.asarray(rng.normal(size=shape), jnp.float32)
        return jnp.asarray(rng.integers(self.model().vocab_size, size=shape), jnp.int32)


class ModelSuite(chex.TestCase):
    """The registry's checks for one family; subclass it, the module's docstring shows how.

    What a subclass declares:
      family: the family's name; all its variants are checked.
      names: variants to check instead of all.
      small: `ModelCase`s, the models that run with numbers.
      method: the model's whose answer reads every parameter.
      remat: the values of `remat` that must not change outputs or gradients.
      traces_scanned: whether equal blocks of a full-size model are traced once, by `scan_layers`; a
        family of few equal blocks is traced sooner without.
      gradient_fields: of the small models when gradients must reach every parameter: a batch norm
        takes away what a bias before it adds to the whole batch, unless its statistics are frozen.
      tolerance: of equalities in float64, relative to the largest entry.
      rms_bf16: relative RMS between the bfloat16 and the float32 model.
      vanishing: paths (regular expression, "block_00/mixer/bias") of parameters whose gradient is 0
        but for rounding: what a softmax or a norm behind them takes away. They are held to that,
        and need not be read.
    """

    __test__ = False
    family: str | None = None
    names: Sequence[str] | None = None
    small: Sequence[ModelCase] = ()
    method: str = "__call__"
    remat: Sequence[bool | str] = (True,)
    traces_scanned: bool = True
    gradient_fields: Mapping[str, Any] = {}
    tolerance: float = 1e-10
    rms_bf16: float = 5e-2
    vanishing: str = r"(?!)"

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.__test__ = cls.__dict__.get("__test__", True)
        cls._runs = {}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if cls.family is None:
            raise unittest.SkipTest(f"{cls.__name__} declares no family")

    @classmethod
    def tearDownClass(cls):
        cls._runs.clear()
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        self.enterContext(jax.numpy_dtype_promotion("strict"))
        self.enterContext(jax.numpy_rank_promotion("raise"))
        self.enterContext(warnings.catch_warnings())
        warnings.simplefilter("error")

    # Full size, by shapes alone; equal blocks are traced once where they can be scanned.

    def variants(self) -> list[str]:
        """The names under test."""
        return list(list_models(family=self.family) if self.names is None else self.names)

    def whole(self, name: str, **overrides) -> nn.Module:
        """The full-size model as it is traced soonest."""
        model = create_model(name, **overrides)
        return soonest_traced(model) if self.traces_scanned else model

    def shapes(self, name: str, **overrides):
        """(outputs, boxed variables) of a full-size model at its default input, as shapes."""
        key = (name, tuple(sorted(overrides.items())))
        if key not in self._runs:
            model = self.whole(name, **overrides)
            self._runs[key] = jax.eval_shape(
                lambda key, inputs: model.init_with_output(key, inputs),
                jax.random.key(0),
                model_info(name).example(2),
            )
        return self._runs[key]

    def test_every_variant_has_its_exact_parameter_count(self):
        self.assertTrue(self.variants(), f"family {self.family!r} has no variants")
        for name in self.variants():
            info = model_info(name)
            outputs, variables = self.shapes(name)
            counted = _count(variables["params"])
            self.assertEqual(counted, info.params, f"{name} has {counted:,} parameters")
            lengths = places(create_model(name), info.input_size)
            self.assertEqual(outputs.shape, (2, *lengths, info.num_classes), name)
            self.assertEqual(outputs.dtype, jnp.float32, name)

    def test_every_variant_has_the_maps_it_announces(self):
        for name in self.variants():
            info = model_info(name)
            model, variables = self.whole(name), nn.unbox(self.shapes(name)[1])
            features = functools.partial(model.apply, method="features")
            maps = jax.eval_shape(features, variables, info.example(2))
            places = info.input_size[:2] if info.input_kind == "image" else info.input_size
            expected = [
                (2, *(self.map_side(size, feature.stride) for size in places), feature.channels)
                for feature in info.features
            ]
            self.assertEqual([entry.shape for entry in maps], expected, name)
            strides = [feature.stride for feature in info.features]
            self.assertEqual(strides, sorted(strides), f"{name}: the finest map comes first")

    def test_every_variant_loses_its_head_and_computes_in_bfloat16(self):
        for name in self.variants():
            info = model_info(name)
            has_head = hasattr(create_model(name), "num_classes")
            headless = {"num_classes": 0} if has_head else {}
            outputs, variables = self.shapes(name, dtype=jnp.bfloat16, **headless)
            chex.assert_type(outputs, jnp.bfloat16)
            chex.assert_type(jax.tree.leaves(variables["params"]), jnp.float32)
            if has_head:
                self.assertEqual(outputs.shape, (2, self.pooled_channels(info)), name)
                self.assertLess(_count(variables["params"]), info.params, name)
            whole = nn.unbox(self.shapes(name)[1])["params"]
            for scope, params in nn.unbox(variables)["params"].items():
                chex.assert_trees_all_equal_shapes(params, whole[scope])

    def map_side(self, size: int, stride: int) -> int:
        """Side of a map of that stride; families that keep what is left of it say otherwise."""
        return size // stride

    def pooled_channels(self, info) -> int:
        """Width of the features that a model without head gives."""
        return info.features[-1].channels

    def test_every_parameter_carries_logical_axes(self):
        def is_box(leaf):
            return isinstance(leaf, nn.LogicallyPartitioned)

        for name in self.variants():
            _, variables = self.shapes(name)
            leaves = jax.tree_util.tree_leaves_with_path(variables["params"], is_leaf=is_box)
            for path, leaf in leaves:
                where = f"{name}{jax.tree_util.keystr(path)}"
                self.assertTrue(is_box(leaf), f"{where} carries no logical axes")
                self.assertEqual(len(leaf.names), leaf.value.ndim, where)
                self.assertLessEqual(set(leaf.names) - {None}, set(LOGICAL_AXES), where)

    def test_no_parameter_hides_behind_a_method(self):
        """Flax's nnx looks an attribute up among a module's methods before its parameters."""
        found = [(create_model(name), self.shapes(name)[1]) for name in self.variants()]
        # Small ones have the names of layers that are not scanned.
        found += [(case.model(), self.small_variables(case)) for case in self.small]
        for model, variables in found:
            for path in variables["params"]:
                hidden = getattr(type(model), path, None)
                self.assertFalse(callable(hidden), f"{path} is a method of {type(model).__name__}")

    def test_every_parameter_of_every_variant_is_used(self):
        for name in self.variants():
            model, inputs = self.whole(name), model_info(name).example()
            variables = nn.unbox(self.shapes(name)[1])
            paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
            apply = functools.partial(model.apply, method=self.method)
            jaxpr = jax.make_jaxpr(apply)(variables, inputs).jaxpr
            _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
            unused = [
                jax.tree_util.keystr(path)
                for path, is_used in zip(paths, used)
                if not is_used and not self.vanishes(path[1:])
            ]
            self.assertFalse(unused, f"{name} never reads {unused}")
            if name in MULTIPLY_ADDS:
                counted = multiply_adds_of(jaxpr)
                told = f"{name} computes {counted:_}; run docs/make_multiply_adds.py"
                self.assertEqual(MULTIPLY_ADDS[name], counted, told)

    # Small, with numbers.

    def small_variables(self, case: ModelCase):
        """Variables moved off their initial values, where zeros and small scales hide faults."""
        if (case.name, "variables") not in self._runs:
            init = _jit(lambda key, inputs: nn.unbox(case.model().init(key, inputs)))
            variables = _numpy(init(jax.random.key(0, impl=PRNG), case.inputs()))
            rng = np.random.default_rng(0)
            moved = jax.tree.map(
                lambda leaf: leaf + np.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype),
                variables["params"],
            )
            self._runs[case.name, "variables"] = {**variables, "params": moved}
        return self._runs[case.name, "variables"]

    def outputs_and_gradients(self, case: ModelCase, variables=None, **overrides):
        """Training outputs and the gradients of a random weighing of them, in float64."""
        model = case.model(**EXACT, **overrides)
        variables = self.small_variables(case) if variables is None else variables

        def run(variables, inputs):
            def loss(params):
                outputs, _ = model.apply(
                    {**variables, "params": params},
                    inputs,
                    train=True,
                    rngs={"dropout": jax.random.key(1, impl=PRNG)},
                    mutable=["batch_stats"],
                )
                weighed = [
                    jnp.sum(jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)) * leaf.ravel())
                    for leaf in jax.tree.leaves(outputs)
                ]
                return sum(weighed), outputs

            gradients, outputs = jax.grad(loss, has_aux=True)(variables["params"])
            return outputs, gradients

        arguments = jax.tree.map(_exact, _numpy((variables, case.inputs())))
        outputs, gradients = _numpy(_jit(run)(*arguments))
        return outputs, self.without_rounding(gradients)

    def vanishes(self, path) -> bool:
        """Whether the gradient of the parameter at this path is 0 but for rounding."""
        return bool(re.fullmatch(self.vanishing, "/".join(part.key for part in path)))

    def without_rounding(self, gradients):
        """Gradients whose vanishing leaves, small beside the largest of all, are 0."""
        bound = self.tolerance * max(np.abs(x).max() for x in jax.tree.leaves(gradients))

        def settle(path, leaf):
            if not self.vanishes(path):
                return leaf
            self.assertLess(np.abs(leaf).max(), bound, jax.tree_util.keystr(path))
            return np.zeros_like(leaf)

        return jax.tree_util.tree_map_with_path(settle, gradients)

    def baseline(self, case: ModelCase):
        """outputs_and_gradients of the small model as it is, run once."""
        if (case.name, "run") not in self._runs:
            self._runs[case.name, "run"] = self.outputs_and_gradients(case)
        return self._runs[case.name, "run"]

    def test_gradients_reach_every_parameter(self):
        self.enterContext(jax.enable_x64(True))
        self.assertTrue(self.small, "declare at least one `small` model")
        for case in self.small:
            if self.gradient_fields:
                run = self.outputs_and_gradients(case, **self.gradient_fields)
            else:
                run = self.baseline(case)
            outputs, gradients = run
            for leaf in jax.tree.leaves((outputs, gradients)):
                self.assertTrue(np.isfinite(leaf).all(), f"{case.name} is not finite")
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
                where = f"{case.name}{jax.tree_util.keystr(path)}"
                if self.vanishes(path):
                    continue
                self.assertGreater(np.abs(leaf).max(), 0.0, f"no gradient for {where}")

    def training_pass(self, case: ModelCase, **overrides):
        """(program, shapes of the variables) of a first training pass, with paths that drop."""
        fields = {"drop_path_rate": 0.5} if hasattr(case.model(), "drop_path_rate") else {}
        model = case.model(**fields, **overrides)
        key = (case.name, "pass", tuple(sorted(overrides.items())))
        if key not in self._runs:
            init = functools.partial(model.init_with_output, train=True)
            rngs = {name: jax.random.key(0, impl=PRNG) for name in ("params", "dropout")}
            jaxpr, (_, variables) = jax.make_jaxpr(init, return_shape=True)(rngs, case.inputs())
            self._runs[key] = jaxpr, variables
        return self._runs[key]

    def test_remat_changes_nothing(self):
        """Traced; a model that scans its blocks runs so, with numbers, in the next check."""
        for case in self.small:
            for remat in self.remat:
                text = str(self.training_pass(case, remat=remat)[0])
                found = re.search(r"\b(remat2?|checkpoint)\[", text)
                self.assertTrue(found, f"{case.name} keeps what remat={remat} should drop")
                if not hasattr(case.model(), "scan_layers"):
                    with jax.enable_x64(True):
                        actual = self.outputs_and_gradients(case, remat=remat)
                        compare.assert_relative(actual, self.baseline(case), self.tolerance)

    def test_scanned_layers_are_the_looped_ones(self):
        """Under each remat at once: what one changes, the other would not mend."""
        self.enterContext(jax.enable_x64(True))
        for case in self.small:
            if not hasattr(case.model(), "scan_layers"):
                continue
            outputs, gradients = self.baseline(case)
            gradients = _without_dust(_stacked(gradients))
            variables = self.small_variables(case)
            stacked = {key: _stacked(value) for key, value in variables.items()}
            for remat in self.remat or (False,):
                fields = {"scan_layers": True, "remat": remat}
                actual = self.outputs_and_gradients(case, variables=stacked, **fields)
                compare.assert_relative(actual[0], outputs, self.tolerance)
                compare.assert_relative(_without_dust(actual[1]), gradients, self.tolerance)

    def test_parameters_are_kept_in_param_dtype(self):
        """And paths drop where layers are scanned; of looped ones they do beside remat."""
        for case in self.small:
            layout = {"scan_layers": True} if hasattr(case.model(), "scan_layers") else {}
            _, variables = self.training_pass(case, param_dtype=jnp.bfloat16, **layout)
            chex.assert_type(jax.tree.leaves(variables["params"]), jnp.bfloat16)

    def precise_outputs(self, case: ModelCase):
        """Of evaluation; those of training, which are there, where it has nothing of its own."""
        model, variables = case.model(), self.small_variables(case)
        if "batch_stats" not in variables and not any(getattr(model, rate, 0) for rate in RATES):
            with jax.enable_x64(True):
                outputs, _ = self.baseline(case)
            if isinstance(outputs, np.ndarray):
                return outputs
        return _jit(model.apply)(variables, case.inputs())

    def test_bfloat16_is_near_float32(self):
        for case in self.small:
            model, variables = case.model(dtype=jnp.bfloat16), self.small_variables(case)
            rounded = _jit(model.apply)(variables, case.inputs())
            chex.assert_type(rounded, jnp.bfloat16)
            compare.assert_rms(rounded, self.precise_outputs(case), self.rms_bf16)

    def sown(self, case: ModelCase):
        """(outputs, intermediates) of the small model, as shapes."""
        if (case.name, "sown") not in self._runs:
            sowing = functools.partial(case.model().apply, mutable=["intermediates"])
            outputs, state = jax.eval_shape(sowing, self.small_variables(case), case.inputs())
            self._runs[case.name, "sown"] = outputs, state["intermediates"]
        return self._runs[case.name, "sown"]

    def test_other_inputs(self):
        for case in self.small:
            model, variables = case.model(), self.small_variables(case)
            for shape in case.other_inputs:
                inputs = case.inputs(shape)
                outputs = jax.eval_shape(model.apply, variables, inputs)
                if lengths := places(model, shape):
                    self.assertEqual(outputs.shape[1:-1], lengths, f"{case.name} on {shape}")
                else:
                    usual = self.sown(case)[0].shape
                    self.assertEqual(outputs.shape, usual, f"{case.name} on {shape}")

    def test_intermediates_are_sown(self):
        for case in self.small:
            self.assertLessEqual({"stem", "pre_logits"}, set(self.sown(case)[1]), case.name)

    def test_fields_that_every_architecture_has(self):
        wanted = {"dtype", "param_dtype", "remat"}
        for name in self.variants():
            fields = {field.name for field in dataclasses.fields(create_model(name))}
            self.assertLessEqual(wanted, fields, name)


def places(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of the axes of an example those of the answer: tokens, pixels, none where it is of all."""
    if hasattr(model, "num_classes"):
        return ()
    # Those that enlarge images say by how much.
    factor = getattr(model, "upscale", 1)
    return tuple(factor * n for n in shape[:2]) if hasattr(model, "out_channels") else shape


def _jit(function):
    return jax.jit(function, compiler_options=COMPILER_OPTIONS)


def _numpy(tree: Any) -> Any:
    """The tree in numpy, of which no step compiles: every one of jax does, for every shape."""
    return jax.tree.map(np.asarray, tree)


def _exact(leaf: np.ndarray) -> np.ndarray:
    """The array in float64; one of integers as it is."""
    return leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _count(params) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def _without_dust(tree: Any) -> Any:
    """Arrays that are nothing but rounding beside the largest of the tree become zeros."""
    sizes = jax.tree.map(lambda x: np.abs(x).max(initial=0.0), tree)
    largest = max(jax.tree.leaves(sizes))
    return jax.tree.map(lambda x, size: x if size > 1e-13 * largest else 0 * x, tree, sizes)


def _stacked(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The collection with every run of looped blocks stacked as scan_layers lays them out."""
    found = (re.fullmatch(r"(.*block)_\d+", name) for name in tree)
    for prefix in sorted({match[1] for match in found if match}):
        tree = stack_blocks(tree, prefix)
    return tree
