"""Recurrences whose kernels come of one chunk's equation, interpreted, against the recurrence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tolerances import RMS_BF16, SHARDED

import scanmax
from scanmax import ops
from scanmax.ops.scan import selective
from scanmax.testing import compare

# sums of some hundred terms in float32
RMS = 5e-6


def normal(seed, dtype=jnp.float32, **shapes):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def pairs(length, heads=2, batch=(2,), dtype=jnp.float32):
    """Queries, keys of norm 1, values and a state."""
    lead, wide = (*batch, length, heads), (*batch, heads, 4, 3)
    made = normal(0, dtype, query=(*lead, 4), key=(*lead, 4), value=(*lead, 3))
    made["key"] /= jnp.linalg.norm(made["key"].astype(jnp.float32), axis=-1, keepdims=True)
    made["key"] = made["key"].astype(dtype)
    return made | normal(1, initial_state=wide)


def delta(length, **options):
    """Decays that forget everything among them."""
    arrays = pairs(length, **options)
    beta, decay = normal(2, beta=arrays["key"].shape[:-1], decay=arrays["key"].shape[:-1]).values()
    beta, decay = 2 * jax.nn.sigmoid(beta), -jnp.exp(decay)
    return arrays | {"beta": beta, "log_decay": decay.at[..., length // 3, 0].set(-jnp.inf)}


def channels(length, **options):
    arrays = pairs(length, **options)
    (decay,) = normal(2, decay=arrays["key"].shape).values()
    return arrays | {"log_decay": -jnp.exp(decay).at[..., length // 3, 0, 1].set(jnp.inf)}


def wkv6(length, **options):
    arrays = channels(length, **options)
    return arrays | normal(3, bonus=arrays["key"].shape[-2:])


def mamba(length, dim=5, batch=(2,), dtype=jnp.float32):
    made = normal(0, dtype, x=(*batch, length, dim), B=(*batch, length, 3), C=(*batch, length, 3))
    rates = normal(1, dt=(*batch, length, dim), A=(dim, 3), D=(dim,))
    rates |= normal(2, initial_state=(*batch, dim, 3))
    return made | rates | {"A": -jnp.exp(rates["A"])}


CASES = {
    "delta_rule": (delta, {"scale": 0.5}),
    "linear_attention": (channels, {}),
    "wkv6": (wkv6, {}),
    "selective_scan": (mamba, {"dt_softplus": True}),
}


def value_and_gradients(function, arrays, **options):
    def call(arrays):
        return function(**arrays, return_state=True, **options)

    def both(arrays):
        (y, state), pull = jax.vjp(call, arrays)
        return {"y": y, "state": state, **pull((jnp.cos(y), jnp.sin(state)))[0]}

    return jax.jit(both)(arrays)


def in_float64(function, arrays, **options):
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(np.asarray(x, np.float64)) for name, x in arrays.items()}
        return value_and_gradients(function, exact, **options)


def assert_all_near(got, expected, tolerance):
    for name, array in got.items():
        there = np.isfinite(np.asarray(expected[name], np.float64))
        assert there.mean() > 0.9, name
        compare.assert_rms(array[there], expected[name][there], tolerance)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_equation(name):
    """Two chunks, the second of few tokens, segments in both, states before and after."""
    make, options = CASES[name]
    length = 20 if name == "selective_scan" else 70
    arrays = make(length)
    segments = jnp.asarray(np.sort(np.random.default_rng(2).integers(0, 4, (2, length)), -1))
    options = options | {"segment_ids": segments}
    run = getattr(ops, name)
    got = value_and_gradients(run, arrays, implementation="pallas", **options)
    exact = in_float64(run, arrays, form="recurrent", **options)
    assert_all_near(got, exact, RMS)


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    make, options = CASES[name]
    arrays = make(17, batch=(), dtype=jnp.bfloat16)
    y = getattr(ops, name)(**arrays, implementation="pallas", **options)
    assert y.dtype == jnp.bfloat16
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(np.asarray(x, np.float64)) for name, x in arrays.items()}
        exact = getattr(ops, name)(**exact, form="recurrent", **options)
    compare.assert_rms(y, exact, RMS_BF16)


def test_rows_over_a_mesh_and_channels_in_blocks(monkeypatch):
    """Groups of queries, heads over two devices; 130 channels are two blocks, the second padded."""
    arrays = channels(10, heads=4, batch=(4,))
    arrays |= {name: arrays[name][..., ::2, :] for name in ("query", "key")}
    wide = mamba(10, dim=130, batch=(4,))
    monkeypatch.setattr(selective, "BLOCK", 128)

    def run(arrays, wide, **options):
        y = ops.linear_attention(**arrays, **options)
        return y, ops.selective_scan(**wide, dt_softplus=True, **options)

    expected = run(arrays, wide)
    types = (AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=types, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        by_rows = {name for name in wide if name not in ("A", "D")}
        rows = NamedSharding(mesh, PartitionSpec("data"))
        arrays = jax.device_put(arrays, rows)
        wide |= {name: jax.device_put(wide[name], rows) for name in by_rows}
        got = jax.jit(lambda *both: run(*both, implementation="pallas"))(arrays, wide)
    for one, other in zip(got, expected, strict=True):
        compare.assert_relative(np.asarray(one), np.asarray(other), SHARDED)


@pytest.mark.parametrize("mixer", ["gla", "gated_delta", "mamba", "wkv6"])
def test_mixers_run_by_it(mixer):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 18)))
    outputs = []
    for name in ("xla", "pallas"):
        options = {mixer: {"implementation": name}}
        size = {"depth": 1, "dim": 16, "heads": 2}
        model = scanmax.create_model("lm_tiny", mixer=mixer, mixer_options=options, **size)
        variables = model.init(jax.random.key(0), tokens[:, :1])
        outputs.append(jax.jit(model.apply)(variables, tokens))
    compare.assert_relative(*map(np.asarray, outputs), 1e-4)


def test_what_it_does_not_serve_is_named():
    arrays = delta(3)
    del arrays["initial_state"]
    with pytest.raises(NotImplementedError, match="pallas does not serve is_causal=False"):
        ops.delta_rule(**arrays, is_causal=False, implementation="pallas")
    with pytest.raises(NotImplementedError, match="form='parallel'"):
        ops.wkv6(**wkv6(3), form="parallel", implementation="pallas")
