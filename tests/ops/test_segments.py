"""Packed sequences in the ops with a state: each runs as if it were alone, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops

# a number may come again: a segment is a run of equal ones; boundaries in and between chunks
SEGMENTS = np.repeat([5, 0, 5], 4)
HEADS, DIM = 2, 3
# What all tokens share: decays and bonus of wkv, bonus of wkv6, two taps of a convolution.
VECTORS = (np.array([-0.1, -1.0, -3.0]), np.array([0.5, -1.0, 2.0]))
BONUS = np.array([[0.5, -1.0, 2.0], [1.0, 0.3, -0.7]])


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


def wkv(is_causal=True):
    def call(q, k, v, a, **options):
        options["is_causal"] = is_causal
        return ops.wkv(3 * k[:, 0], v[:, 0], *VECTORS, **options)

    return call


def wkv6(is_causal=True):
    def call(q, k, v, a, **options):
        return ops.wkv6(q, k, v, a, BONUS, is_causal=is_causal, **options)

    return call


def conv(q, k, v, a, *, form, chunk_size, **options):
    return ops.causal_conv1d(v[:, 0], BONUS, **options)


def long_conv(q, k, v, a, *, form, chunk_size, **options):
    kernel = np.cos(np.arange(11 * DIM)).reshape(11, DIM)  # nearly as long as all segments
    return ops.fft_conv(v[:, 0], kernel, form="fft", **options)


def shift(is_causal=True):
    def call(q, k, v, a, *, form, chunk_size, return_state=False, **options):
        y = ops.token_shift(v[:, 0], is_causal=is_causal, **options)
        return (y, v[-1, 0]) if return_state else y

    return call


def attention(q, k, v, a, **options):
    return ops.dot_product_attention(q, k[:, :1], v[:, :1], **options)


CALLS = {
    "attention, both ways": attention,
    "linear, head, recurrent": linear("head"),
    "linear, normalised": linear("head", normalize=True),
    "linear, channel": linear("channel"),
    "linear, both ways": linear(None, is_causal=False),
    "linear, channel, both ways": linear("channel", is_causal=False, normalize=True),
    "ssd": ssd,
    "selective, recurrent": selective,
    "selective, chunked": selective,
    "wkv, recurrent": wkv(),
    "wkv, chunked": wkv(),
    "wkv, parallel": wkv(),
    "wkv, both ways": wkv(is_causal=False),
    "wkv6, recurrent": wkv6(),
    "wkv6, chunked": wkv6(),
    "wkv6, both ways": wkv6(is_causal=False),
    "convolution": conv,
    "long convolution": long_conv,
    "token shift": shift(),
    "token shift, both ways": shift(is_causal=False),
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
    """The form that the name says, else in chunks that a segment does not divide."""
    forms = [form for form in ("recurrent", "parallel") if form in name] or ["chunked"]
    return {"form": forms[0], "chunk_size": 3}


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
            y = jax.vmap(lambda *z: call(*z, **options))(*parts)
            return y.reshape(-1, *y.shape[2:])
        empty = jnp.zeros((2, *state.shape))
        if name.startswith("wkv,"):
            empty = empty.at[:, 1].set(-jnp.inf)
        states = jnp.concatenate([state[None], empty])
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
    """What it holds reaches neither the others' outputs nor their gradients."""
    others = np.r_[0:4, 8:12]

    @jax.jit
    def run(*inputs):
        def loss(*inputs):
            y = CALLS[name](*inputs, segment_ids=jnp.asarray(SEGMENTS), **options_of(name))
            return jnp.sin(y[others]).sum(), y

        gradients, y = jax.grad(loss, (0, 1, 2, 3), has_aux=True)(*inputs)
        return y[others], [x[others] for x in gradients], y[4:8]

    inputs = arrays()
    before = run(*inputs)
    with_decays = [run(*(x.at[4:8].multiply(100.0) for x in inputs))]
    for broken in (jnp.nan, jnp.inf, 1e300):
        with_decays.append(run(*(x.at[5].set(broken) for x in inputs[:3]), inputs[3]))
        # one number of one array
        with_decays.append(run(*inputs[:2], inputs[2].at[5, 0, 0].set(broken), inputs[3]))
    with_decays.append(run(*inputs[:3], inputs[3].at[6].set(jnp.nan)))
    for after in with_decays:
        jax.tree.map(np.testing.assert_array_equal, after[:2], before[:2])
    assert float(jnp.abs(before[2] - with_decays[0][2]).max()) > 0


@pytest.mark.parametrize("name", [name for name in CALLS if "both" not in name])
def test_a_broken_state_spoils_the_first_segment_and_a_broken_token_the_last_state(name):
    inputs, options = arrays(), options_of(name) | {"return_state": True}
    run = jax.jit(
        lambda inputs, **given: CALLS[name](
            *inputs, segment_ids=jnp.asarray(SEGMENTS), **options, **given
        )
    )
    y, state = run(inputs)
    first, _ = run(inputs, initial_state=jnp.full_like(state, jnp.nan))
    np.testing.assert_array_equal(first[4:], y[4:])
    assert bool(jnp.isnan(first[0]).any())
    last, broken = run([x.at[-1].set(jnp.nan) for x in inputs[:3]] + inputs[3:])
    np.testing.assert_array_equal(last[:-1], y[:-1])
    assert bool(jnp.isnan(broken).any())


MATRICES = {
    "attention": lambda q, k, a: ((q, k[:, :1]), {"is_causal": True}),
    "linear": lambda q, k, a: ((q, k), {"log_decay": a}),
    "delta_rule": lambda q, k, a: ((q, k, jnp.abs(a[..., 0])), {"log_decay": a[..., 0]}),
    "ssd": lambda q, k, a: ((-a[..., 0], -jnp.ones(HEADS), k[:, :1], q[:, :1]), {}),
    "selective_scan": lambda q, k, a: (
        (-a[:, 0, :2], -jnp.ones((2, DIM)), k[:, 0], q[:, 0]),
        {},
    ),
    "wkv": lambda q, k, a: ((k[:, 0], *VECTORS), {}),
    "wkv6": lambda q, k, a: ((q, k, a, BONUS), {}),
}


@pytest.mark.parametrize("name", MATRICES)
def test_rows_of_other_segments_hold_whatever_one_holds(name):
    op = getattr(ops, "linear_attention_matrix" if name == "linear" else f"{name}_matrix")
    others, segments = np.r_[0:5, 8:12], jnp.asarray(SEGMENTS)

    def rows(*inputs):
        given, options = MATRICES[name](*inputs)
        return op(*given, segment_ids=segments, **options)[..., others, :]

    q, k, _, a = arrays()
    expected = rows(q, k, a)
    assert not expected[..., 5:, 4:8].any(), "segments mix"
    for broken in (jnp.nan, 1e300):
        actual = rows(*(x.at[5].set(broken) for x in (q, k)), a)
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(rows(q, k, a.at[5].set(jnp.nan)), expected)
