"""The recurrence with a decay per head as a kernel for TPUs, interpreted, against the equation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tolerances import RMS_BF16, SHARDED

import scanmax
from scanmax import ops
from scanmax.ops import reference
from scanmax.ops.scan import pallas
from scanmax.testing import compare

# sums of some hundred terms in float32
RMS = 5e-6


def ssd_arguments(length, heads=4, groups=2, batch=(2,), dtype=jnp.float32):
    rng = np.random.default_rng(0)
    states, width = 5, 3
    lead = (*batch, length)
    made = {
        "x": rng.normal(size=(*lead, heads, width)),
        "dt": rng.normal(size=(*lead, heads)) - 1,
        "A": -np.exp(rng.normal(size=heads)),
        "B": rng.normal(size=(*lead, groups, states)),
        "C": rng.normal(size=(*lead, groups, states)),
        "D": rng.normal(size=heads),
        "initial_state": rng.normal(size=(*batch, heads, states, width)),
    }
    wide = ("A", "initial_state")
    return {
        name: jnp.asarray(x, jnp.float32 if name in wide else dtype) for name, x in made.items()
    }


def value_and_gradients(function, arrays, **options):
    def call(arrays):
        return function(**arrays, return_state=True, **options)

    (y, state), pull = jax.vjp(call, arrays)
    rng = np.random.default_rng(1)
    d_y, d_state = (jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in (y, state))
    return {"y": y, "state": state, **pull((d_y, d_state))[0]}


def in_float64(function, arrays, **options):
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(np.asarray(x, np.float64)) for name, x in arrays.items()}
        return value_and_gradients(function, exact, **options)


def test_values_and_gradients_are_those_of_the_equation():
    """Two chunks, the second of few tokens, segments in both, states before and after."""
    arrays = ssd_arguments(150)
    segments = jnp.asarray(np.sort(np.random.default_rng(2).integers(0, 4, (2, 150)), -1))
    options = {"dt_softplus": True, "segment_ids": segments}
    got = value_and_gradients(ops.ssd, arrays, implementation="pallas", **options)
    expected = in_float64(reference.ssd, arrays, **options)
    for name, array in got.items():
        compare.assert_rms(array, expected[name], RMS)


def test_heads_of_several_programs_and_half_precision(monkeypatch):
    """4 heads of one group are two programs, whose gradients of B and C are summed."""
    monkeypatch.setattr(pallas, "HEADS", 3)
    assert pallas.heads_per_program(4, 1) == 2
    arrays = ssd_arguments(130, heads=4, groups=1, batch=(), dtype=jnp.bfloat16)
    options = {"dt_softplus": True}
    got = value_and_gradients(ops.ssd, arrays, implementation="pallas", **options)
    assert got["y"].dtype == jnp.bfloat16
    expected = in_float64(reference.ssd, arrays, **options)
    for name, array in got.items():
        compare.assert_rms(array, expected[name], RMS_BF16)


@pytest.mark.parametrize("decayed", [True, False])
def test_linear_attention_and_rows_over_a_mesh(decayed):
    rng = np.random.default_rng(0)
    lead, heads = (4, 100), 4
    query, key = (jnp.asarray(rng.normal(size=(*lead, 1, 4)), jnp.float32) for _ in range(2))
    value = jnp.asarray(rng.normal(size=(*lead, heads, 3)), jnp.float32)
    decay = -jnp.exp(jnp.asarray(rng.normal(size=(*lead, heads)), jnp.float32))
    decay = decay.at[:, 50].set(-jnp.inf) if decayed else None
    options = {"feature_map": "elu", "normalize": True}

    def run(query, key, value, decay, **options):
        function = functools.partial(ops.linear_attention, **options)
        y, pull = jax.vjp(lambda q, k, v: function(q, k, v, log_decay=decay), query, key, value)
        return [y, *pull(jnp.cos(y))]

    expected = run(query, key, value, decay, form="recurrent", **options)
    types = (AxisType.Auto,) * 3
    mesh = jax.make_mesh((2, 2, 2), ("data", "tensor", "context"), axis_types=types)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        placed = jax.device_put((query, key, value, decay), rows)
        got = jax.jit(functools.partial(run, implementation="pallas", **options))(*placed)
    for one, other in zip(got, expected, strict=True):
        compare.assert_relative(np.asarray(one), np.asarray(other), SHARDED)


def test_what_it_does_not_serve_is_named():
    arrays = ssd_arguments(3)
    del arrays["initial_state"]
    for options, reason in (
        ({"is_causal": False}, "pallas does not serve is_causal=False"),
        ({"form": "recurrent"}, "form='recurrent'"),
    ):
        with pytest.raises(NotImplementedError, match=f"available: 'xla'.*{reason}"):
            ops.ssd(**arrays, implementation="pallas", **options)
    half = arrays | {"x": arrays["x"].astype(jnp.float16)}
    with pytest.raises(NotImplementedError, match="dtype float16, float32"):
        ops.ssd(**half, implementation="pallas")


def test_a_language_model_trains_by_it():
    """The field of the mixer."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 30)))
    losses = []
    for name in ("xla", "pallas"):
        options = {"mamba2": {"implementation": name, "state_size": 4}}
        size = {"depth": 1, "dim": 16, "heads": 2}
        model = scanmax.create_model("lm_tiny", mixer="mamba2", mixer_options=options, **size)
        variables = model.init(jax.random.key(0), tokens)

        def loss(variables, model=model):
            return jnp.mean(jnp.square(jax.nn.log_softmax(model.apply(variables, tokens))))

        losses.append(jax.jit(jax.value_and_grad(loss))(variables))
    chex.assert_trees_all_close(*losses, rtol=1e-4, atol=1e-6)
