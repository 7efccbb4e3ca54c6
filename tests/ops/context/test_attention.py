"""Attention over devices equals attention on one; each device's memory is its share."""

import functools

import chex
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


def arrays(batch=(), T=16, S=None, H=4, G=2, K=3, V=5):
    rng = np.random.default_rng(0)
    S = S or T
    shapes = ((T, H, K), (S, G, K), (S, G, V), (T, H, V))
    return [jnp.asarray(rng.normal(size=(*batch, *shape))) for shape in shapes]


def value_and_gradients(op, *inputs):
    *inputs, cotangent = inputs

    @jax.jit
    def run(*inputs):
        y, pull_back = jax.vjp(op, *inputs)
        return y, pull_back(cotangent)

    return run(*inputs)


# Together: batches, lengths that devices do not divide, S other than T, each kind of normalizer.
CASES = {
    "causal": (
        {"is_causal": True, "scale": 0.3, "normalizer": "softmax_one"},
        {"batch": (2,), "T": 15},
    ),
    "bidirectional": ({}, {"T": 17, "S": 22}),
    "window": (
        {"local_window_size": (6, 1), "logits_soft_cap": 2.0, "normalizer": "sigmoid"},
        {"batch": (1, 2)},
    ),
    "lssar": ({"normalizer": "lssar", "is_causal": True}, {"T": 13}),
    "entmax15": ({"normalizer": "entmax15"}, {"T": 9, "S": 13, "G": 1}),
}


def check(inputs, order=slice(None), *, sharded, **options):
    """The op over four devices, its tokens in that order, gives the reference and its gradients."""
    whole = functools.partial(reference.context_attention, **options)
    y, gradients = value_and_gradients(whole, *inputs)
    context = functools.partial(ops.context_attention, mesh=mesh_of(4), **sharded, **options)
    actual = value_and_gradients(context, *(x[..., order, :, :] for x in inputs))
    expected = (y[..., order, :, :], tuple(x[..., order, :, :] for x in gradients))
    compare.assert_relative(actual, expected, 1e-11)


@pytest.mark.parametrize("name", CASES)
def test_the_ring_gives_what_one_device_does(name):
    options, sizes = CASES[name]
    check(arrays(**sizes), sharded={"form": "ring", "chunk_size": (2, 3)}, **options)


def test_the_other_normalizers_go_round_too():
    inputs = arrays(T=6)[:3]
    tested = {"sigmoid", "softplus", "sparsemax"} | {
        case.get("normalizer") for case, _ in CASES.values()
    }
    names = sorted(set(ops.NORMALIZERS) - tested)

    def of_all(attend, **options):
        return jax.jit(
            lambda *x: {
                name: attend(*x, normalizer=name, is_causal=True, **options) for name in names
            }
        )(*inputs)

    actual = of_all(ops.context_attention, mesh=mesh_of(2))
    compare.assert_relative(actual, of_all(reference.context_attention), 1e-11)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("ring", {"normalizer": "softplus", "local_window_size": 4}),
        ("ring", {"normalizer": "sparsemax"}),
        ("all_to_all", {"normalizer": "softplus", "local_window_size": 4}),
    ],
)
def test_the_balanced_order_gives_the_same(form, options):
    sharded = {"order": "zigzag", "form": form, "chunk_size": 2}
    check(arrays(T=24), ops.zigzag_order(24, 4), sharded=sharded, is_causal=True, **options)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"is_causal": True}, {"batch": (2,), "T": 13, "G": 2}),
        ({"normalizer": "lssar"}, {"H": 8, "G": 4}),
    ],
)
def test_heads_for_tokens_gives_the_same(options, sizes):
    check(arrays(**sizes), sharded={"form": "all_to_all"}, **options)


# The steps of sparsemax go on until the rows of all devices have ended; equal ones, as those of the
# first device, end sooner.
@pytest.mark.parametrize("options", [{"is_causal": True}, {"normalizer": "sparsemax"}])
def test_batches_stay_split_and_the_mesh_may_be_ambient(options):
    mesh = mesh_of(2, data=2)
    inputs = arrays((2,), T=8)
    inputs[0] = inputs[0].at[:, :4].multiply(0).at[:, 4:].multiply(0.3)
    where = NamedSharding(mesh, PartitionSpec("data", "context"))
    with jax.set_mesh(mesh):
        split = [jax.device_put(x, where) for x in inputs[:3]]
        run = jax.jit(functools.partial(ops.context_attention, **options)).lower(*split).compile()
        y = run(*split)
        assert y.sharding.is_equivalent_to(where, y.ndim)
        text = run.as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text
    expected = reference.context_attention(*inputs[:3], **options)
    chex.assert_trees_all_close(y, expected, rtol=1e-12)


@pytest.mark.parametrize("form", ["ring", "all_to_all"])
def test_memory_of_a_device_is_its_share(form):
    T, sizes = 4096, {}
    for devices in (2, 8):
        mesh = mesh_of(devices)
        where = NamedSharding(mesh, PartitionSpec("context"))
        inputs = [jax.ShapeDtypeStruct((T, 8, 16), jnp.float32, sharding=where)] * 4
        context = functools.partial(
            ops.context_attention, mesh=mesh, is_causal=True, form=form, chunk_size=64
        )

        def both(*inputs, context=context):
            y, pull_back = jax.vjp(context, *inputs[:3])
            return y, pull_back(inputs[3])

        analysis = jax.jit(both).lower(*inputs).compile().memory_analysis()
        sizes[devices] = (
            analysis.temp_size_in_bytes
            + analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
        )
    assert sizes[8] < 0.36 * sizes[2], sizes


def test_the_balanced_order_gives_every_device_the_same_work():
    # Pairs of tokens (query, key) that causality allows, per device.
    T, P = 64, 8
    order = np.asarray(ops.zigzag_order(T, P))
    np.testing.assert_array_equal(order, reference.zigzag_order(T, P))
    work = (order + 1).reshape(P, -1).sum(1)
    assert len(set(work)) == 1
    assert sorted(order) == list(range(T))


def test_mistakes_are_told():
    query, key, value, _ = arrays(H=3, G=3)
    mesh = mesh_of(4)
    run = functools.partial(ops.context_attention, query, key, value, mesh=mesh)
    with pytest.raises(ValueError, match="4 devices on axis 'context' do not"):
        run(form="all_to_all")
    with pytest.raises(ValueError, match="form='rnig' is not one of None, 'ring', 'all_to_all'"):
        run(form="rnig")
    short = arrays(T=15)
    with pytest.raises(ValueError, match="order='zigzag' needs T=15 and S=15"):
        ops.context_attention(*short[:3], mesh=mesh, order="zigzag")
    with pytest.raises(ValueError, match="no multiple of 2 \\* devices=8"):
        ops.zigzag_order(12, 4)
