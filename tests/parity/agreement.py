"""A scanmax model with a peer's weights: the same logits, the same gradients of everything."""

import functools
import re
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tolerances

import scanmax
from scanmax.models.analysis import soonest_traced
from scanmax.models.weights import load_weights
from scanmax.models.weights.layout import template_of
from scanmax.models.weights.load import key_table, named_leaves, taken_apart
from scanmax.models.weights.save import laid_out, laid_out_like, one_by_one
from scanmax.models.weights.sources import flatten
from scanmax.models.weights.table import convert
from scanmax.testing import compare
from scanmax.testing.model_suite import COMPILER_OPTIONS


def read_run(path):
    """A run of tests/parity/peers.py from its golden file."""
    fields = {"weights": {}, "grads": {}, "input_grad": None}
    with np.load(path) as archive:
        for name, array in archive.items():
            group, _, key = name.partition("/")
            if key:
                fields[group][key] = array
            else:
                fields[group] = array
    return types.SimpleNamespace(**fields)


# What was loaded last: several checks of one run begin with it.
_last = []


def loaded(model, run):
    """The variables of the run's weights."""
    if not _last or _last[0] is not run or _last[1] != model:
        _last[:] = [run, model, load_weights(model, run.weights, run.inputs.shape[1:])]
    return _last[2]


def published_shapes(name):
    """Path -> shape of every array of a registered model, of which equal blocks are traced once."""
    model, info = soonest_traced(scanmax.create_model(name)), scanmax.model_info(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), info.example())
    leaves = [taken_apart(path, leaf.shape) for path, leaf in named_leaves(variables)]
    return {path: shape for layers in leaves for path, shape in layers}


def assert_same_names(table, shapes, tensors) -> None:
    """The names and shapes of the layout that a table names first are those of a peer's tensors."""
    layout = next(iter(table.layouts))
    template, unnamed = template_of(table, shapes, layout)
    assert not unnamed, unnamed
    found, expected = (
        {name: tuple(x.shape) for name, x in each.items()} for each in (template, tensors)
    )
    assert found == expected


def assert_read_back(model, shapes, layouts) -> None:
    """Arrays of these shapes, every number another one, are what they were behind a layout."""
    ours, count = {}, 0
    for path, shape in shapes.items():
        size = int(np.prod(shape))
        ours[path] = np.arange(count, count + size, dtype=np.float64).reshape(shape)
        count += size
    for layout in layouts:
        written = laid_out(ours, layout, model)
        back, problems = convert(written, key_table(model).rows, shapes)
        assert not problems, (layout, problems[:3])
        assert set(back) == set(ours)
        for path, array in ours.items():
            np.testing.assert_array_equal(back[path], array, f"{layout}: {path}")


def assert_agrees(model, run, vanishing: str = r"(?!)") -> None:
    """Loads run.weights and compares logits, parameter gradients and the input gradient.

    Written back in the peer's layout they are what they were, bit for bit, and the layout by its
    name is that of the peer. Gradients of paths like `vanishing` are 0 up to rounding: of both,
    beside the largest of all.
    """
    variables = loaded(model, run)
    kept = {name: nn.unbox(tree) for name, tree in variables.items()}
    table, ours = key_table(model), one_by_one(flatten(kept))
    assert_same_names(table, {path: x.shape for path, x in ours.items()}, run.weights)
    written = laid_out_like(run.weights, ours, table.rows, "like=...")
    assert set(written) == set(run.weights)
    for name, tensor in run.weights.items():
        np.testing.assert_array_equal(written[name], tensor, name)
    inputs, cotangent = jnp.asarray(run.inputs), jnp.asarray(run.cotangent)
    is_image = run.input_grad is not None

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def logits_and_gradients(variables, inputs):
        def loss(variables, inputs):
            logits = model.apply(variables, inputs)
            return jnp.sum(logits * cotangent), logits

        arguments = (0, 1) if is_image else (0,)
        return jax.grad(loss, arguments, has_aux=True)(variables, inputs)

    gradients, logits = logits_and_gradients(variables, inputs)
    compare.assert_relative(logits, run.logits, tolerances.PARITY)
    # Running averages are no parameters: the peer has no gradients of theirs.
    actual = {path: x for path, x in named_leaves(gradients[0]) if path.startswith("params/")}
    shapes = {path: leaf.shape for path, leaf in actual.items()}
    # Every layout change is linear: gradients travel by the table of the weights.
    expected, problems = convert(run.grads, key_table(model).rows, shapes)
    assert not problems, problems
    assert set(actual) == set(expected)
    bound = tolerances.PARITY * max(np.abs(x).max() for x in expected.values())
    for path in [path for path in actual if re.fullmatch(vanishing, path)]:
        largest = max(np.abs(x).max() for x in (actual.pop(path), expected.pop(path)))
        assert largest < bound, f"{path} has a gradient of {largest:.2e}"
    compare.assert_relative(actual, expected, tolerances.PARITY)
    if is_image:
        compare.assert_relative(gradients[1], run.input_grad, tolerances.PARITY)


def assert_trains_alike(model, run) -> None:
    """One training step's logits, and the running averages that it leaves."""
    variables = loaded(model, run)
    step = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    compiled = jax.jit(step, compiler_options=COMPILER_OPTIONS)
    logits, moved = compiled(variables, jnp.asarray(run.inputs))
    compare.assert_relative(logits, run.train_logits, tolerances.PARITY)
    after = load_weights(model, {**run.weights, **run.statistics}, run.inputs.shape[1:])
    actual, expected = (dict(named_leaves(tree["batch_stats"])) for tree in (moved, after))
    compare.assert_relative(actual, expected, tolerances.PARITY)


def assert_maps_agree(model, run, indices=None) -> None:
    """The maps of `features` are the peer's: of these numbers, or all that it gives."""
    variables = loaded(model, run)
    features = functools.partial(model.apply, method="features")
    maps = jax.jit(features, compiler_options=COMPILER_OPTIONS)(variables, jnp.asarray(run.inputs))
    expected = [run.maps[index] for index in indices or range(len(run.maps))]
    assert [x.shape for x in maps] == [x.shape for x in expected]
    compare.assert_relative(list(maps), expected, tolerances.PARITY)


def assert_every_tensor_has_its_place(peers, name, tensors=None) -> None:
    """Names and shapes of a peer's tensors against our model of that name, there and back.

    None are those of timm's model of that name.
    """
    # Zeros without memory of their own.
    tensors = {
        key: np.broadcast_to(np.float16(0), shape)
        for key, shape in (tensors or peers.state_shapes(name)).items()
    }
    table, shapes = key_table(scanmax.create_model(name)), published_shapes(name)
    _, problems = convert(tensors, table.rows, shapes)
    assert not problems, problems
    assert_same_names(table, shapes, tensors)
