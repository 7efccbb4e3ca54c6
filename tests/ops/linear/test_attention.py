"""Linear attention without decay, with decays per head and per key channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

FORMS = ("recurrent", "chunked", "parallel")


def make_args(rng, case, with_value=True):
    groups, heads, dim, width = getattr(case, "sizes", (2, 2, 5, 3))
    lead = (*case.batch, case.length)
    decay_shape = {None: None, "head": (*lead, heads), "channel": (*lead, heads, dim)}[case.decay]
    args = {
        "query": rng.normal(size=(*lead, groups, dim)),
        "key": rng.normal(size=(*lead, groups, dim)),
        "value": rng.normal(size=(*lead, heads, width)),
        "log_decay": None if decay_shape is None else -rng.exponential(size=decay_shape),
    }
    if case.options.get("normalize"):
        # weights that add up rather than cancel
        args |= {name: rng.uniform(0.1, 1, size=args[name].shape) for name in ("query", "key")}
    if hasattr(case, "packed"):
        args["segment_ids"] = np.sort(rng.integers(0, 4, size=lead), -1)
    if not with_value:
        del args["value"]
    return args


class LinearAttentionTest(OpSuite):
    """Decays per key channel, the general case."""

    op = ops.linear_attention
    reference = reference.linear_attention
    step = ops.linear_attention_step
    forms = FORMS
    sequence = ("query", "key", "value", "log_decay")
    cases = (
        *(
            OpCase(
                length=case.length,
                batch=case.batch,
                decay="channel",
                forms=None if case.length in (1, 200) else ("chunked",),
                options={"chunk_size": 16},
            )
            for case in OpCase.lengths()
            if case.length != 7
        ),
        OpCase(
            length=7,
            batch=(2,),
            sizes=(1, 2, 3, 2),
            decay="channel",
            full=True,
            # the parallel form is one chunk
            forms=("recurrent", "chunked"),
            options={"chunk_size": 3, "feature_map": "softmax", "scale": 0.5},
        ),
    )
    errors = (
        ({"key": lambda x: x[..., 1:]}, ValueError, "key has shape .*the shape of query"),
        ({"value": lambda x: x[..., :1, :, :]}, ValueError, "value has shape"),
        ({"log_decay": lambda x: x[..., 1:]}, ValueError, r"log_decay has shape .*\[\*B, T, H\]"),
        ({"initial_state": lambda x: x[..., 1:]}, ValueError, "initial_state has shape"),
        ({"is_causal": False}, ValueError, "initial_state and return_state .*is_causal=True"),
        ({"form": "sideways"}, ValueError, "form='sideways' is not one of"),
        ({"feature_map": "elo"}, ValueError, "feature_map='elo' is not one of"),
        ({"implementation": "cudnn"}, NotImplementedError, "linear_attention"),
    )
    make_args = staticmethod(make_args)


class VariantsOfLinearAttentionTest(OpSuite):
    """Decays per head or none, groups, normalisation, both directions."""

    op = ops.linear_attention
    reference = reference.linear_attention
    step = ops.linear_attention_step
    forms = ("chunked",)
    sequence = ("query", "key", "value", "log_decay", "segment_ids")
    required_lengths = (7,)
    required_batch_ranks = (0, 1)
    cases = (
        OpCase(length=65, decay="head", sizes=(2, 4, 5, 3), forms=FORMS, packed=True),
        OpCase(length=65, decay=None, sizes=(2, 4, 5, 3), forms=FORMS),
        OpCase(
            length=7,
            batch=(2,),
            decay="head",
            sizes=(2, 4, 3, 2),
            full=True,
            options={"chunk_size": 3, "normalize": True},
        ),
        OpCase(
            length=9,
            decay="head",
            resume=False,
            full=True,
            packed=True,
            options={"chunk_size": 4, "is_causal": False},
        ),
        *(
            OpCase(
                length=length,
                decay=decay,
                resume=False,
                forms=(form,),
                **({"packed": True} if length == 10 else {}),
                options={"chunk_size": 4, "is_causal": False, "normalize": True},
            )
            for length, decay, form in (
                (1, "head", "chunked"),
                (9, None, "chunked"),
                (9, "channel", "recurrent"),
                (9, "channel", "chunked"),
                (10, "channel", "chunked"),
                (10, None, "chunked"),
            )
        ),
    )
    make_args = staticmethod(make_args)


class LinearAttentionMatrixTest(OpSuite):
    op = ops.linear_attention_matrix
    reference = reference.linear_attention_matrix
    cases = (
        OpCase(length=9, batch=(2,), decay="channel", sizes=(1, 2, 3, 2), full=True),
        OpCase(length=9, decay="head", options={"is_causal": False, "normalize": True}),
        OpCase(length=9, decay="head", packed=True, options={"is_causal": False}),
        OpCase(length=1, decay=None, options={"feature_map": "elu", "scale": 2.0}),
    )
    errors = (({"log_decay": lambda x: x[..., 1:]}, ValueError, "log_decay has shape"),)

    def make_args(self, rng, case):
        return make_args(rng, case, with_value=False)

    def test_the_matrix_applied_to_the_values_is_the_op(self):
        for case in self.cases:
            arrays, options = self.inputs(case)
            matrix = self.compiled(options)(**arrays)
            value = jnp.asarray(make_args(np.random.default_rng(1), case)["value"])
            y = jnp.einsum("...hij,...jhv->...ihv", matrix, value)
            expected = ops.linear_attention(**arrays, value=value, **options)
            np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def _inputs(length, heads=2, dim=4, width=3):
    rng = np.random.default_rng(0)
    shapes = ((length, heads, dim), (length, heads, dim), (length, heads, width))
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


@pytest.mark.parametrize("channels", [False, True])
def test_strong_and_infinite_decays_keep_digits_and_finite_gradients(channels):
    query, key, value = _inputs(100)
    decay = -jnp.abs(jnp.asarray(np.random.default_rng(1).normal(size=query.shape), jnp.float32))
    # some forget everything at once, the rest remember for long
    decay = jnp.where(decay < -1.5, -100.0, decay * 1e-2).at[50].set(-jnp.inf)
    decay = decay if channels else decay[..., 0]
    with jax.enable_x64(True):
        exact = reference.linear_attention(
            *(jnp.asarray(z, jnp.float64) for z in (query, key, value)),
            log_decay=jnp.asarray(decay, jnp.float64),
        )
    exact = np.asarray(exact)

    def attend(query, key, value, log_decay):
        y = ops.linear_attention(query, key, value, log_decay=log_decay, chunk_size=32)
        return y.sum(), y

    gradients, y = jax.jit(jax.grad(attend, argnums=(0, 1, 2, 3), has_aux=True))(
        query, key, value, decay
    )
    assert np.linalg.norm(np.asarray(y, np.float64) - exact) < 2e-6 * np.linalg.norm(exact)
    assert all(bool(jnp.isfinite(g).all()) for g in gradients)


def test_rows_without_weight_are_zero_with_finite_gradients():
    query, key, value = _inputs(6)

    def attend(query):
        return ops.linear_attention(query, key, value, feature_map="relu", normalize=True)

    dead = query.at[2].set(-1.0)
    y = attend(dead)
    np.testing.assert_array_equal(y[2], 0)
    assert bool(jnp.isfinite(y).all())
    assert bool(jnp.isfinite(jax.grad(lambda q: attend(q).sum())(dead)).all())


@pytest.mark.usefixtures("float64")
def test_a_feature_map_may_be_a_function():
    query, key, value = _inputs(6)
    y = ops.linear_attention(query, key, value, feature_map=jnp.exp)
    expected = ops.linear_attention(jnp.exp(query), jnp.exp(key), value)
    np.testing.assert_allclose(y, expected, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_normalised_rows_are_averages():
    query, key, value = _inputs(20)
    ones = jnp.ones_like(value)
    y = ops.linear_attention(query, key, ones, feature_map="elu", normalize=True)
    np.testing.assert_allclose(y, ones, rtol=1e-10)


def test_training_memory_with_decays_per_channel_is_linear_in_tokens():
    heads, dim = 2, 32

    def memory(length):
        token = jax.ShapeDtypeStruct((1, length, heads, dim), jnp.float32)
        loss = jax.grad(
            lambda q, k, v, a: ops.linear_attention(q, k, v, log_decay=a, chunk_size=16).sum(),
            (0, 1, 2, 3),
        )
        compiled = jax.jit(loss).lower(token, token, token, token).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = memory(1024), memory(4096)
    assert large < 4.5 * small
    all_states = 4096 * heads * dim * dim * 4
    assert large < all_states / 2
