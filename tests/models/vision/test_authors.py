"""Models whose peers are their authors' code: what that gave for seeded weights is kept."""

import json
import pathlib

import jax
import numpy as np
import pytest
import tolerances
from golden import make_authors, seeded
from parity.agreement import assert_read_back

from scanmax.models.weights.layout import template_of
from scanmax.models.weights.load import key_table, named_leaves
from scanmax.models.weights.table import convert, row_of
from scanmax.testing import compare

FOLDER = pathlib.Path(make_authors.__file__).parent
NAMES = json.loads((FOLDER / "author_names.json").read_text())


@pytest.mark.parametrize("name", make_authors.MODELS)
def test_logits_and_gradients(name):
    actual = seeded.outputs(*make_authors.seeded_run(name))
    with np.load(FOLDER / f"{name}.npz") as archive:
        expected = dict(archive)
    if "sums" in expected:
        actual = seeded.packed(actual)
    assert set(actual) == set(expected)
    for part in seeded.WHOLE:
        compare.assert_relative(actual.pop(part), expected.pop(part), tolerances.PARITY)
    # One number for each parameter; a sum may cancel, hence the common scale.
    names = sorted(expected)
    actual, expected = (np.hstack([x[key] for key in names]) for x in (actual, expected))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_the_release_has_its_place(name):
    """Names and shapes of what the authors' code saves of the same model, there and back."""
    model, size = make_authors.small_model(name), make_authors.MODELS[name][2]
    example = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), example)
    shapes = {path: leaf.shape for path, leaf in named_leaves(variables)}
    table = key_table(model)
    tensors = {key: np.zeros(shape, np.float32) for key, shape in NAMES[name].items()}
    _, problems = convert(tensors, table.rows, shapes)
    assert not problems, problems
    if not table.layouts:
        # Names that are read and not written.
        return
    # And back: all but what the authors' code works out itself.
    written, unnamed = template_of(table, shapes, "authors")
    assert not unnamed, unnamed
    seen = {key for key in written if key.endswith("num_batches_tracked")}
    found = {key: [*x.shape] for key, x in written.items() if key not in seen}
    read = {key for key, x in tensors.items() if row_of(key, x.ndim, table.rows, shapes)[1]}
    assert found == {key: NAMES[name][key] for key in read}
    assert {key for key in tensors if key.endswith("num_batches_tracked")} <= seen
    assert_read_back(model, shapes, ["authors"])
