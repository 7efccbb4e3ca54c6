"""`ObjectiveSuite`: what everything that hangs on the trainer's plug points keeps.

    class DkdSuite(ObjectiveSuite):
        fields = {"objective": ObjectiveConfig(terms=(("dkd", {"weight": 0.5}),))}
        teacher = SmallNet(width=6)

        def reference(self, variables, batch, teachers):
            ...  # the mean loss of the batch, written as a loop from the equation

A subclass declares a config and the loss as a plain loop; the suite holds the trainer's loss and
gradients against it in float64, and then trains: the gradient reaches all that learns and nothing
that does not, eight devices give what one gives, parts of a batch what the whole gives (or a clear
refusal), a run continues bit for bit, what is exported is the model alone.
"""

import contextlib
import copy
import dataclasses
import io
import pathlib
import re
import shutil
import tempfile
import unittest
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scanmax.errors import UserError
from scanmax.testing.by_numpy import by_numpy
from scanmax.testing.small_run import SmallImages, SmallNet
from scanmax.train import sharding
from scanmax.train.build import Run, as_read, build
from scanmax.train.checkpoint import Checkpointer
from scanmax.train.config import Config, ModelConfig, OptimConfig
from scanmax.train.feed import to_device
from scanmax.train.gradients import StepLoss
from scanmax.train.inference import load_for_inference
from scanmax.train.loop import train
from scanmax.train.step import Recipe, TrainState, model_variables
from scanmax.train.teachers import Teacher

SHARDED = 1e-5
FLOAT64 = 1e-10
BFLOAT16 = 5e-2


class ObjectiveSuite(chex.TestCase):
    """The checks of one config's plugs; subclass it, the module's docstring shows how.

    What a subclass declares:
      fields: fields of the `Config`, such as {"objective": ObjectiveConfig(...)}.
      model: the network.
      teacher: a network to learn from, with random weights; None for none.
      views: views of each image in a training batch.
      data: makes the data of a batch size and a number of views.
      reference: the mean loss over the rows that the mask keeps, as a loop; None leaves the
        comparison out (for a rule that changes how a gradient is found, not the loss).
      frozen: patterns of parameters that no gradient reaches, and should not.
      masked_rows: whether the loop is asked with rows that the mask leaves out.
      rms_bf16: largest relative difference of the loss of a model that computes in bfloat16.
    """

    __test__ = False
    fields: Mapping[str, Any] = {}
    model: nn.Module = SmallNet()
    teacher: nn.Module | None = None
    views: int = 1
    data: Any = SmallImages
    reference: Any = None
    frozen: tuple[str, ...] = ()
    masked_rows: bool = True
    rms_bf16: float = BFLOAT16

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.__test__ = cls.__dict__.get("__test__", True)

    @classmethod
    def tearDownClass(cls):
        for name in ("_begun", "_plain", "_planned", "_told"):
            if name in cls.__dict__:
                delattr(cls, name)
        super().tearDownClass()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not cls.fields:
            raise unittest.SkipTest(f"{cls.__name__} declares no fields")

    # What is run.

    def config(self, **fields: Any) -> Config:
        """Plain gradient descent at rate one: an update is the gradient."""
        defaults = {
            "model": ModelConfig(name="small"),
            "optim": OptimConfig(name="sgd", momentum=0.0, lr=1.0),
            "batch_size": 16,
            "duration": "4 steps",
            "log_every": "1 step",
            "eval_every": "2 steps",
        }
        config = Config(**{**defaults, **copy.deepcopy(dict(self.fields)), **fields})
        config.schedule.name, config.schedule.warmup = "constant", ""
        config.checkpoint.every = "2 steps"
        config.checkpoint.keep = 10
        config.sharding.min_size = 8
        # Drawing takes longer than four steps, and a library of events as long as one.
        config.log.report, config.log.to = False, ()
        return config

    def run_of(self, config: Config | None = None, devices: int = 1) -> Run:
        """The run of a config, its teachers in place."""
        config = self.config() if config is None else config
        data = self.data(config.batch_size, self.views)
        with self.teachers_in_place():
            return build(config, pipeline=data, model=self.model, devices=jax.devices()[:devices])

    def recipe_of(self, **fields: Any) -> Recipe:
        """The plain run's recipe around networks with other fields, such as a wider dtype."""
        run = self.plain_run()
        own = run.objective
        teachers = tuple(
            dataclasses.replace(each, model=self.clone(each.model, **fields))
            for each in own.teachers
        )
        model = as_read(run.config, self.clone(self.model, **fields), run.pipeline)
        return dataclasses.replace(run.recipe, objective=own.clone(model=model, teachers=teachers))

    def clone(self, model: nn.Module, **fields: Any) -> nn.Module:
        """A network with other fields; one that holds networks hands them on."""
        return model.clone(**fields)

    @contextlib.contextmanager
    def teachers_in_place(self) -> Iterator[None]:
        """Lets the config's teachers be the suite's network, each with variables of its own."""
        if self.teacher is None:
            yield
            return
        told = {f"small_{index}": own for index, own in enumerate(self.teachers())}
        given = tuple(Teacher(name, self.teacher, reads_taps=True) for name in told)
        load = lambda teacher, *rest, **options: told[teacher.name]  # noqa: E731
        with (
            mock.patch("scanmax.train.build.make_teachers", return_value=given),
            mock.patch("scanmax.train.stored.load_teacher", side_effect=load),
        ):
            yield

    def teacher_variables(self) -> Any:
        """The teacher's variables, found once for all checks."""
        if "_told" not in type(self).__dict__:
            init = jax.jit(lambda: self.teacher.init(jax.random.key(7), jnp.zeros((1, 4, 4, 1))))
            type(self)._told = nn.meta.unbox(init())
        return type(self)._told

    def teachers(self) -> tuple[Any, ...]:
        """The variables of each teacher; a subclass with several gives more."""
        return () if self.teacher is None else (self.teacher_variables(),)

    def batch(self, step: int = 3, size: int = 16) -> dict[str, np.ndarray]:
        """A training batch."""
        return next(self.data(size, self.views).train_iterator(step))

    def plain_run(self) -> Run:
        """The run of the config as it is, planned once for all checks."""
        if "_planned" not in type(self).__dict__:
            type(self)._planned = self.run_of()
        return type(self)._planned

    def begun(self) -> TrainState:
        """The state before the first step, found once for all checks."""
        if "_begun" not in type(self).__dict__:
            # Called as the loop calls it: compiled once for both.
            type(self)._begun = jax.device_get(self.plain_run().init(None))
        return type(self)._begun

    def one_step(self, config: Config | None = None, devices: int = 1, batch: Any = None):
        """(run, state before, state after, metrics) of one step; None is the config as it is."""
        run = self.plain_run() if config is None else self.run_of(config, devices)
        before = self.begun()
        # Of copies: a step may write into what it is given.
        state = jax.device_put(jax.tree.map(np.copy, before), run.shardings)
        with sharding.use_mesh(run.mesh, run.config.sharding):
            rows = to_device(batch or self.batch(), sharding.batch_sharding(run.mesh))
            # As the loop gives them: the run that is trained then has its step compiled.
            pairs = zip(run.objective.teachers, self.teachers())
            teachers = tuple(teacher.settle(variables) for teacher, variables in pairs)
            teachers = jax.device_put(teachers, sharding.replicated(run.mesh))
            state, metrics = run.train_step(state, rows, teachers)
        return run, before, jax.device_get(state), jax.device_get(metrics)

    def plain_step(self):
        """What `one_step` gives of the config as it is, found once for all checks."""
        if "_plain" not in type(self).__dict__:
            type(self)._plain = self.one_step()
        return type(self)._plain

    def loss_of(self, recipe: Recipe, params: Any, carried: Any, batch: Any, teachers: Any) -> Any:
        """The mean loss of a batch as the trainer forms it."""
        objective = recipe.objective
        names = [*carried, "losses", "metrics"]
        names += ["intermediates"] if objective.reads_taps else []
        rngs = {"dropout": jax.random.key(1), "objective": jax.random.key(2)}
        found, _ = objective.apply(
            recipe.variables(params, carried),
            batch,
            train=True,
            teachers=teachers,
            rngs=rngs,
            mutable=names,
        )
        values = sum(v.reshape(v.shape[0], -1).mean(1) for v in found.values.values())
        return jnp.sum(jnp.where(batch["mask"], values, 0)) / batch["mask"].sum()

    # What is checked.

    def test_loss_and_gradient_equal_the_loop(self):
        """In float64, with rows that the mask leaves out."""
        if self.reference is None:
            self.assertIsNone(type(self).reference)
            return
        recipe = self.recipe_of(dtype=jnp.float64, param_dtype=jnp.float64)
        state = self.begun()
        batch = self.batch(size=4)
        if self.masked_rows:
            batch["mask"][1] = False
        with jax.enable_x64(True):
            wide = lambda tree: jax.tree.map(_wide, tree)  # noqa: E731
            params, carried, batch, teachers = wide(
                (state.params, state.carried, batch, self.teachers())
            )
            ours = jax.value_and_grad(lambda p: self.loss_of(recipe, p, carried, batch, teachers))
            loop = jax.value_and_grad(
                lambda p: self.reference({"params": p, **carried}, batch, teachers)
            )
            value, gradient = jax.jit(ours)(params)
            try:
                expected, slope = by_numpy(loop)(params)
            except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
                # A loop that branches on values is done as it stands, at several times the cost.
                expected, slope = loop(params)
            np.testing.assert_allclose(value, expected, rtol=FLOAT64)
            size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(slope))
            chex.assert_trees_all_close(gradient, slope, rtol=FLOAT64, atol=FLOAT64 * size)

    def test_gradient_reaches_what_learns_and_nothing_else(self):
        """Every parameter but the frozen; no teacher, and nothing that is carried."""
        run, before, after, _ = self.plain_step()
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(np.subtract, before.params, after.params)
        ):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            frozen = any(re.search(pattern, name) for pattern in self.frozen)
            self.assertEqual(bool(np.any(leaf != 0)), not frozen, name)
        batch, teachers = self.batch(), self.teachers()
        leaves, structure = jax.tree.flatten((before.carried, teachers))
        floats = {
            place: leaf
            for place, leaf in enumerate(leaves)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        }

        def loss(floats):
            whole = [floats.get(place, leaf) for place, leaf in enumerate(leaves)]
            carried, teachers = jax.tree.unflatten(structure, whole)
            return self.loss_of(run.recipe, before.params, carried, batch, teachers)

        if floats:
            # Compiled at once: each operation by itself takes far longer.
            for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(floats)):
                np.testing.assert_array_equal(leaf, 0)

    def test_eight_devices_equal_one(self):
        """Parameters, what is carried and metrics, sharded over every axis."""
        _, _, one, metrics = self.plain_step()
        config = self.config()
        config.sharding.preset = "fsdp"
        run, _, many, found = self.one_step(config, devices=8)
        self.assertFalse(
            all(lies.is_fully_replicated for lies in jax.tree.leaves(run.shardings.params))
        )
        for ours, theirs in ((many.params, one.params), (many.carried, one.carried)):
            chex.assert_trees_all_close(ours, theirs, rtol=SHARDED, atol=SHARDED)
        chex.assert_trees_all_close(found, metrics, rtol=SHARDED, atol=SHARDED)
        self.assertGreater(metrics["grad_norm"], 1e-4)

    def test_parts_of_a_batch_equal_the_whole_or_are_refused(self):
        """`optim.accumulate` changes nothing, or is one clear line."""
        config = self.config()
        config.optim.accumulate = 2
        objective = self.plain_run().objective
        if not all(part.accumulates for part in (objective, *objective.terms)):
            with self.assertRaisesRegex(UserError, "optim.accumulate=2"):
                self.run_of(config)
            return
        _, _, whole, metrics = self.plain_step()
        _, _, parts, found = self.one_step(config)
        chex.assert_trees_all_close(parts.params, whole.params, rtol=SHARDED, atol=SHARDED)
        chex.assert_trees_all_close(found, metrics, rtol=SHARDED, atol=SHARDED)

    def test_a_run_continues_bit_for_bit_and_exports_the_model(self):
        """Stopped after two of four steps, its state is that of the run that never stopped."""
        with tempfile.TemporaryDirectory() as folder, self.teachers_in_place():
            whole, cut = pathlib.Path(folder) / "whole", pathlib.Path(folder) / "cut"
            self.train(whole)
            shutil.copytree(whole, cut)
            for path in (cut / "checkpoints").iterdir():
                if int(path.name) > 2:
                    shutil.rmtree(path)
            self.train(cut)
            run = self.plain_run()
            one, other = (self.last_state(run, path) for path in (whole, cut))
            chex.assert_trees_all_equal(one, other)
            trained = load_for_inference(whole, model=self.model)
            expected = model_variables(run.recipe.variables(run.eval_params(one), one.carried))
            chex.assert_trees_all_close(trained.variables, expected, rtol=1e-6, atol=1e-7)
            images = jnp.asarray(self.batch()["image"]).reshape(-1, 4, 4, 1)
            chex.assert_tree_all_finite(jax.jit(trained.model.apply)(trained.variables, images))

    def train(self, workdir: pathlib.Path) -> None:
        """Trains the config in a folder, quietly, by the steps that the other checks compiled."""
        quiet = io.StringIO()
        with (
            mock.patch("scanmax.train.loop.build", return_value=self.plain_run()),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            train(
                self.config(),
                workdir,
                pipeline=self.data(16, self.views),
                model=self.model,
            )

    def last_state(self, run: Run, workdir: pathlib.Path) -> TrainState:
        """The newest checkpoint's."""
        with Checkpointer(workdir / "checkpoints", run.config.checkpoint) as checkpointer:
            return jax.device_get(checkpointer.restore(run.shapes, run.shardings)[0])

    def test_bfloat16_gives_nearly_the_same_loss(self):
        """A model that computes in bfloat16, its parameters and the loss in float32."""
        recipes = self.plain_run().recipe, self.recipe_of(dtype=jnp.bfloat16)
        state, batch, teachers = self.begun(), self.batch(), self.teachers()
        losses = jax.jit(
            lambda p, c: [self.loss_of(each, p, c, batch, teachers) for each in recipes]
        )(state.params, state.carried)
        self.assertEqual(losses[1].dtype, jnp.float32)
        np.testing.assert_allclose(losses[1], losses[0], rtol=self.rms_bf16, atol=self.rms_bf16)


def step_loss(function: Any, batch: Any, parts: int = 1) -> StepLoss:
    """A `StepLoss` of (params, batch) -> mean loss, to hold gradient rules against equations."""
    total = len(jax.tree.leaves(batch)[0])

    def of_part(params, carried, part, key):
        share = len(jax.tree.leaves(part)[0]) / total
        return share * function(params, part), (carried, {})

    return StepLoss(of_part, {}, batch, jax.random.key(0), parts)


def _wide(leaf: Any) -> Any:
    leaf = np.asarray(leaf)
    return leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
