"""T5 and Mu: the suite of every model, the authors' Mu, caches, packed rows, a task to learn."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from golden import seeded

from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.models.parts.bucketed_bias import BucketedBias, bucket_of_distance
from scanmax.testing import ModelCase, ModelSuite, compare

SIZES = {
    "vocab_size": 12,
    "dim": 8,
    "heads": 2,
    "head_dim": 4,
    "mlp_hidden": 6,
    "encoder_depth": 2,
    "decoder_depth": 2,
}
MU = {**SIZES, "heads": 4, "kv_heads": 2}
T5 = {**SIZES, "buckets": 8, "max_distance": 12}


class T5Suite(ModelSuite):
    family = "t5"
    # The others differ in widths and depths; all are counted below.
    names = ("t5_v1_1_small", "mu_330m")
    # Mu's gradients are held to the authors', its scanned layers to steps of an answer.
    small = (ModelCase("t5_v1_1_small", T5, input_size=(7,), other_inputs=((5,),)),)


def counted(model):
    """Weights of the encoder's layers and the decoder's, of the tables and of norms."""
    width, bias = model.heads * model.head_dim, int(model.use_bias)
    shared = (model.kv_heads or model.heads) * model.head_dim
    attention = 2 * model.dim * (width + shared) + bias * (width + 2 * shared + model.dim)
    mlp = (2 + model.gated_mlp) * model.dim * model.mlp_hidden
    mlp += bias * (model.mlp_hidden + model.dim)
    total = model.encoder_depth * (attention + mlp + 2 * model.dim)
    total += model.decoder_depth * (2 * attention + mlp + 3 * model.dim) + 2 * model.dim
    if model.positions == "buckets":
        total += 2 * model.buckets * model.heads
    return total + (1 if model.tied else 2) * model.vocab_size * model.dim


def test_layers_add_up_to_the_published_counts():
    for name in list_models(family="t5"):
        assert counted(create_model(name)) == model_info(name).params, name


def drawn(name, fields, seed=0):
    """A small model, and variables off their initial values."""
    model = create_model(name, **fields)
    return model, seeded.seeded_variables(model, (4,), kind=jnp.int32)


def test_mu_is_the_authors():
    """tests/golden/mu.npz has what their code gives for these weights, padding on the right."""
    model, variables = drawn("mu_330m", {**MU, "heads": 6, "head_dim": 2})
    path = pathlib.Path(seeded.__file__).parent / "mu.npz"
    with np.load(path) as archive:
        golden = dict(archive)

    @jax.jit
    def run(variables):
        def loss(params):
            inputs = golden["source"], False, golden["answer"]
            logits = model.apply({"params": params}, *inputs)
            return jnp.sum(logits * golden["cotangent"]), logits

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradients, logits = run(variables)
    compare.assert_relative(logits, golden["logits"], tolerances.PARITY)
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    assert len(leaves) == len(golden) - 4
    scale = max(np.abs(golden[jax.tree_util.keystr(key)]).max() for key, _ in leaves)
    for key, leaf in leaves:
        expected = golden[jax.tree_util.keystr(key)]
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(("name", "fields"), [("t5_small", T5), ("mu_330m", MU)])
def test_steps_of_an_answer_are_the_whole_one(name, fields):
    model, variables = drawn(name, {**fields, "scan_layers": name == "mu_330m"})
    rng = np.random.default_rng(1)
    source = jnp.asarray(rng.integers(2, 12, (2, 5)), jnp.int32)
    answer = jnp.asarray(rng.integers(2, 12, (2, 4)), jnp.int32).at[:, 0].set(model.start_token)

    @jax.jit
    def run(variables):
        whole = model.apply(variables, source, answer=answer)
        logits, state = model.apply(variables, source, 5 + 3, True, method="prefill")
        found = [logits]
        for index in (1, 2, 3):
            logits, state = model.apply(variables, state, answer[:, index], method="step")
            found.append(logits)
        return whole, jnp.stack(found, 1)

    whole, found = run(variables)
    compare.assert_relative(found, whole, 1e-5)


def test_the_cache_that_grows_is_the_answers_alone():
    """Of a longer source only what is made once is longer."""
    model = create_model("mu_330m", **MU)
    caches = []
    for length in (4, 64):
        state = jax.eval_shape(lambda length=length: model.init_state(1, length, 8))
        caches.append([layer.cache.key.shape for layer in state.layers])
        assert state.layers[0].key.shape == (1, length, 2, 4)
    assert caches[0] == caches[1] == [(1, 8, 2, 4)] * 2


def test_padding_of_a_source_says_nothing_on_either_side():
    model, variables = drawn("t5_small", {**T5, "pad_token": None})
    source = jnp.array([[3, 4, 5]], jnp.int32)
    segments = jnp.array([[0, 0, 1, 1, 1]], jnp.int32)

    @jax.jit
    def first(variables, tokens, segments):
        fields = {"last_only": True, "segment_ids": segments, "method": "prefill"}
        return model.apply(variables, tokens, **fields)[0]

    alone = first(variables, source, None)
    for filler in (0, 7):
        padded = jnp.pad(source, ((0, 0), (2, 0)), constant_values=filler)
        compare.assert_relative(first(variables, padded, segments), alone, 1e-5)
    read = model.clone(pad_token=0)
    behind = jnp.pad(source, ((0, 0), (0, 2)))
    actual = jax.jit(lambda v: read.apply(v, behind, answer=source))(variables)
    expected = jax.jit(lambda v: read.apply(v, source, answer=source))(variables)
    compare.assert_relative(actual, expected, 1e-5)


def test_buckets_of_distances():
    """Half are one distance wide, the others reach max_distance as its logarithm."""
    near = bucket_of_distance(16, 128)
    np.testing.assert_array_equal(near[:9], range(9))
    assert [int(np.argmax(near == bucket)) for bucket in (10, 12, 14)] == [16, 32, 64]
    assert near[-1] == 15
    places = jnp.arange(6)
    for both in (True, False):
        layer = BucketedBias(2, 8, 12, both)
        table = jnp.arange(16.0).reshape(8, 2)
        bias = layer.apply({"params": {"table": table}}, places, places)
        behind, before = bias[0, :, 0] // 2, bias[0, 0] // 2
        assert behind.tolist() == [0, 1, 2, 2, 2, 3] if both else [0, 1, 2, 3, 4, 4]
        assert before.tolist() == ([0, 5, 6, 6, 6, 7] if both else [0] * 6)


def test_rows_of_a_source_and_an_answer_are_read_apart():
    """What `sequence_labels` trains: a row holds both, and nothing is asked of the source."""
    model, variables = drawn("mu_330m", MU)
    row = jnp.asarray(np.random.default_rng(1).integers(2, 12, (2, 7)), jnp.int32)
    both = model.clone(source_length=4)
    logits = jax.jit(both.apply)(variables, row)
    assert not np.any(logits[:, :4])
    expected = jax.jit(lambda v: model.apply(v, row[:, :4], answer=row[:, 4:]))(variables)
    compare.assert_relative(logits[:, 4:], expected, 1e-6)
    with pytest.raises(ValueError, match="expected source_length=4 and what"):
        jax.eval_shape(both.apply, variables, row[:, :4])


def test_mistakes():
    tokens = jnp.ones((1, 4), jnp.int32)
    model = create_model("t5_small", **T5)
    with pytest.raises(UserError, match="'sines' is not one of buckets, rotary"):
        jax.eval_shape(model.clone(positions="sines").init, jax.random.key(0), tokens)
    with pytest.raises(UserError, match="one source a row"):
        jax.eval_shape(lambda key: model.init(key, tokens, segment_ids=tokens), jax.random.key(0))
