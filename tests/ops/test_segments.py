"""Packed sequences in the ops with a state: each runs as if it were alone, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops

# a number may come again: a segment is a run of equal ones; boundaries in and between chunks
SEGMENTS = np.repeat([5, 0, 5], 4)
HEADS, DIM = 2, 3


def linear(decay, is_causal=True, normalize=False):
    def call(q, k, v, a, **options):
        a = {None: None, "head": a[..., 0], "channel": a}[decay]
        options |= {"is_causal": is_causal, "normalize": normalize, "feature_map": "elu"}
        return ops.linear_attention(q, k, v, log_decay=a, **options)

    return call


def ssd(q, k, v, a, **options):
    return ops.ssd(v, -a[..., 0], -jnp.ones(HEADS), k[:, :1], q[:, :1], **options)


def selective(q, k, v, a, **options):
    A = -jnp.arange(1.0, 7.0).reshape(2, 3)
    return ops.selective_scan(v[..., 0], -a[..., 0], A, k[:, 0], q[:, 0], **options)


CALLS = {
    "linear, head, recurrent": linear("head"),
    "linear, normalised": linear("head", normalize=True),
    "linear, channel": linear("channel"),
    "linear, both ways": linear(None, is_causal=False),
    "linear, channel, both ways": linear("channel", is_causal=False, normalize=True),
    "ssd": ssd,
    "selective, recurrent": selective,
    "selective, chunked": selective,
}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def arrays():
    rng = np.random.default_rng(0)
    lead = (len(SEGMENTS), HEADS, DIM)
    made = [rng.normal(size=lead) for _ in range(3)] + [-rng.exponential(size=lead)]
    return [jnp.asarray(x) for x in made]


def options_of(name):
    """Recurrent where the name says so, else in chunks that a segment does not divide."""
    return {"form": "recurrent" if "recurrent" in name else "chunked", "chunk_size": 3}


@pytest.mark.parametrize("name", list(CALLS))
def test_each_segment_runs_as_if_alone(name):
    call, options, inputs, causal = CALLS[name], options_of(name), arrays(), "both" not in name
    state = None
    if causal:
        options["return_state"] = True
        shape = jax.eval_shape(lambda *z: call(*z, **options), *inputs)[1].shape
        state = jnp.asarray(np.random.default_rng(1).normal(size=shape))

    def packed(state, *inputs):
        given = {"initial_state": state} if causal else {}
        return call(*inputs, segment_ids=jnp.asarray(SEGMENTS), **given, **options)

    def alone(state, *inputs):
        parts = [x.reshape(3, 4, *x.shape[1:]) for x in inputs]
        if not causal:
            return jax.vmap(lambda *z: call(*z, **options))(*parts).reshape(inputs[2].shape)
        states = jnp.concatenate([state[None], jnp.zeros((2, *state.shape))])
        y, last = jax.vmap(lambda state, *z: call(*z, initial_state=state, **options))(
            states, *parts
        )
        return y.reshape(-1, *y.shape[2:]), last[-1]

    def value_and_gradients(function):
        def total(state, *inputs):
            result = function(state, *inputs)
            loss = sum(
                jnp.sin(jnp.arange(x.size) + x.ravel()).sum() for x in jax.tree.leaves(result)
            )
            return loss, result

        wanted = (0, 1, 2, 3, 4) if causal else (1, 2, 3, 4)
        return jax.jit(jax.value_and_grad(total, wanted, has_aux=True))(state, *inputs)

    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-11),
        value_and_gradients(packed),
        value_and_gradients(alone),
    )


@pytest.mark.parametrize("name", list(CALLS))
def test_another_segment_may_hold_anything(name):
    run = jax.jit(lambda *z: CALLS[name](*z, segment_ids=jnp.asarray(SEGMENTS), **options_of(name)))
    inputs = arrays()
    before, after = run(*inputs), run(*(x.at[4:8].multiply(100.0) for x in inputs))
    for part in (slice(0, 4), slice(8, 12)):
        np.testing.assert_array_equal(before[part], after[part])
    assert float(jnp.abs(before - after).max()) > 0
