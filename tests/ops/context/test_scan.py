"""Scans over devices equal scans on one, gradients too; what is exchanged does not depend on T."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import compare


@pytest.fixture(autouse=True)
def strict():
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


def mesh_of(devices, **others):
    shape = {**others, "context": devices}
    return jax.make_mesh(
        tuple(shape.values()),
        tuple(shape),
        devices=jax.devices()[: int(np.prod(list(shape.values())))],
        axis_types=(AxisType.Auto,) * len(shape),
    )


def value_and_gradients(op, arrays):
    """The result, and the gradient of every array for a cotangent of its own."""

    @jax.jit
    def run(arrays):
        result, pull_back = jax.vjp(lambda arrays: op(**arrays), arrays)
        weights = jax.tree.map(lambda y: jnp.cos(jnp.arange(y.size)).reshape(y.shape), result)
        return result, pull_back(weights)[0]

    return run(arrays)


def linear_arrays(decay, T=13, batch=(2,), state=True, normalize=False):
    rng = np.random.default_rng(0)
    G, H, K, V = (2, 2, 3, 2) if decay == "channel" else (1, 2, 3, 2)
    arrays = {
        "query": rng.uniform(0.1, 1, size=(*batch, T, G, K)),
        "key": rng.uniform(0.1, 1, size=(*batch, T, G, K)),
        "value": rng.normal(size=(*batch, T, H, V)),
    }
    if decay:
        shape = (*batch, T, H, K) if decay == "channel" else (*batch, T, H)
        arrays["log_decay"] = -rng.exponential(size=shape) / 2
    if state:
        arrays["initial_state"] = rng.uniform(0.1, 1, size=(*batch, H, K, V + normalize))
    return arrays


def scan_arrays(T=13, batch=(2,), reverse=False):
    rng = np.random.default_rng(0)
    return {
        "decay": rng.uniform(-0.9, 1, size=(*batch, T, 3)),
        "x": rng.normal(size=(*batch, T, 3)),
        "initial_state": rng.normal(size=(*batch, 3)),
    }


def ssm_arrays(T=13, batch=(2,), selective=False):
    rng = np.random.default_rng(0)
    channels, lead = (3,) if selective else (2, 3), (*batch, T)
    heads = channels[0]
    arrays = {
        "x": rng.normal(size=(*lead, *channels)),
        "dt": rng.normal(size=(*lead, heads)),
        "A": -rng.uniform(0.1, 1, size=(3, 2) if selective else (2,)),
        "B": rng.normal(size=(*lead, 2) if selective else (*lead, 1, 2)),
        "C": rng.normal(size=(*lead, 2) if selective else (*lead, 1, 2)),
        "D": rng.normal(size=heads),
        "dt_bias": rng.normal(size=heads),
        "initial_state": rng.normal(size=(*batch, 3, 2) if selective else (*batch, 2, 2, 3)),
    }
    return arrays


# The op of `ops`, or its twin of `reference`.
SCANS = {
    "diagonal_scan": lambda module, **given: module.context_diagonal_scan(**given),
    "linear_attention": lambda module, **given: module.context_linear_attention(**given),
    "ssd": lambda module, **given: module.context_ssd(**given),
    "selective_scan": lambda module, **given: module.context_selective_scan(**given),
}
STATE = {"return_state": True}
CASES = {
    "diagonal": ("diagonal_scan", scan_arrays(), STATE),
    "reverse": ("diagonal_scan", scan_arrays(T=16, batch=()), {**STATE, "reverse": True}),
    "reverse padded": ("diagonal_scan", scan_arrays(T=5, batch=(1, 2)), {"reverse": True}),
    "head": (
        "linear_attention",
        linear_arrays("head", normalize=True),
        {**STATE, "normalize": True, "scale": 0.5},
    ),
    "channel": ("linear_attention", linear_arrays("channel"), {**STATE, "feature_map": "elu"}),
    "none": ("linear_attention", linear_arrays(None, batch=(), state=False), STATE),
    "ssd": ("ssd", ssm_arrays(), {**STATE, "dt_softplus": True, "dt_limit": (0.01, 1.0)}),
    "selective": (
        "selective_scan",
        ssm_arrays(selective=True),
        {**STATE, "dt_softplus": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_devices_give_what_one_does(name):
    op, arrays, options = CASES[name]
    arrays = {key: jnp.asarray(array) for key, array in arrays.items()}
    context = functools.partial(SCANS[op], ops, mesh=mesh_of(4), **options)
    whole = functools.partial(SCANS[op], reference, **options)
    compare.assert_relative(
        value_and_gradients(context, arrays), value_and_gradients(whole, arrays), 1e-11
    )


def test_one_device_is_the_scan_itself():
    calls = (
        (ops.context_diagonal_scan(**scan_arrays()), ops.diagonal_scan(**scan_arrays())),
        (
            ops.context_linear_attention(**linear_arrays("head")),
            ops.linear_attention(**linear_arrays("head")),
        ),
        (ops.context_ssd(**ssm_arrays()), ops.ssd(**ssm_arrays())),
        (
            ops.context_selective_scan(**ssm_arrays(selective=True)),
            ops.selective_scan(**ssm_arrays(selective=True)),
        ),
    )
    for context, plain in calls:
        compare.assert_relative(context, plain, 1e-12)


def test_batches_stay_split_and_the_mesh_may_be_ambient():
    mesh = mesh_of(2, data=4)
    where = NamedSharding(mesh, PartitionSpec("data", "context"))
    arrays = {k: jnp.asarray(v) for k, v in linear_arrays("head", T=8, batch=(4,)).items()}
    del arrays["initial_state"]
    expected = reference.context_linear_attention(**arrays)
    with jax.set_mesh(mesh):
        split = {name: jax.device_put(x, where) for name, x in arrays.items()}
        y = jax.jit(lambda a: ops.context_linear_attention(**a))(split)
        assert y.sharding.is_equivalent_to(where, y.ndim)
    compare.assert_relative(y, expected, 1e-12)


def exchanged(op, arrays, mesh):
    """Elements that collectives of the compiled gradient move, and which collectives those are."""
    where = NamedSharding(mesh, PartitionSpec("context"))
    shapes = {
        name: jax.ShapeDtypeStruct(
            x.shape,
            x.dtype,
            sharding=where if x.shape[0] > 100 else NamedSharding(mesh, PartitionSpec()),
        )
        for name, x in arrays.items()
    }

    def both(arrays):
        y, pull_back = jax.vjp(lambda arrays: op(mesh=mesh, **arrays), arrays)
        return y, pull_back(y)[0]

    text = jax.jit(both).lower(shapes).compile().as_text()
    kinds = r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)
    moved = 0
    for shape, _ in found:
        for sizes in re.findall(r"\[([\d,]*)\]", shape):
            moved += int(np.prod([int(n) for n in sizes.split(",") if n]))
    return moved, {kind for _, kind in found}


@pytest.mark.parametrize("name", ["diagonal_scan", "linear_attention", "ssd", "selective_scan"])
def test_what_is_exchanged_does_not_depend_on_the_length(name):
    make = {
        "diagonal_scan": scan_arrays,
        "linear_attention": functools.partial(linear_arrays, "head"),
        "ssd": ssm_arrays,
        "selective_scan": functools.partial(ssm_arrays, selective=True),
    }[name]
    op, mesh = getattr(ops, f"context_{name}"), mesh_of(4)
    short, long = (exchanged(op, make(T=T, batch=()), mesh) for T in (512, 1024))
    assert short == long
    assert short[0] > 0
    assert short[0] < 1000


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="decay has shape"):
        ops.context_diagonal_scan(jnp.ones((3, 2)), jnp.ones((3, 1)))
    bad = {**ssm_arrays(), "dt": np.ones((2, 13, 1))}
    with pytest.raises(ValueError, match=r"dt has shape .*\[\*B, T, H\]"):
        ops.context_ssd(**bad)
    bad = {**ssm_arrays(selective=True), "dt": np.ones((2, 13, 1))}
    with pytest.raises(ValueError, match=r"dt has shape .*the shape of x"):
        ops.context_selective_scan(**bad)
    with pytest.raises(ValueError, match="initial_state has shape"):
        ops.context_linear_attention(
            **{**linear_arrays("head"), "initial_state": np.ones((2, 2, 3, 1))}
        )
