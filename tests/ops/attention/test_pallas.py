"""Attention by JAX's kernel for TPUs, interpreted on a CPU, against the equation.

`python docs/make_scaling.py attention` compiles it for TPUs.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_calls import (
    CASES,
    arrays,
    assert_is_the_equation,
    segments,
    value_and_gradients,
)
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec
from tolerances import RMS_BF16, SHARDED

import scanmax
from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import compare


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_equation(case):
    assert_is_the_equation(case, *CASES[case], "pallas")


def test_half_precision_and_no_nan_from_what_is_hidden():
    given = arrays((160, 160), dtype=jnp.bfloat16)
    lengths = jnp.asarray([160, 70])
    options = {"is_causal": True, "key_value_seq_lengths": lengths, "query_seq_lengths": lengths}
    with jax.enable_x64(True):
        exact = [jnp.asarray(np.asarray(x, np.float64)) for x in given]
        expected = value_and_gradients(reference.dot_product_attention, exact, **options)
    given[:3] = [x.at[1, 70:].set(jnp.nan) for x in given[:3]]
    got = value_and_gradients(ops.dot_product_attention, given, implementation="pallas", **options)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        compare.assert_rms(one, other, RMS_BF16)


def test_rows_and_heads_over_a_mesh_and_a_batch_by_vmap():
    """Rows over data, heads over tensor, and more devices than key heads."""
    given = arrays((128, 128), heads=(4, 1), batch=(2, 4), dtype=jnp.float32)
    options = {"is_causal": True, "segment_ids": segments(4, 128)}

    def run(*given):
        function = functools.partial(ops.dot_product_attention, implementation="pallas", **options)
        y, pull = jax.vjp(jax.vmap(function), *given[:3])
        return [y, *pull(given[3])]

    types = (AxisType.Auto,) * 3
    mesh = jax.make_mesh((2, 2, 2), ("data", "tensor", "context"), axis_types=types)
    rows = NamedSharding(mesh, PartitionSpec(None, "data"))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, rows) for x in given]
        got = jax.jit(run)(*placed)
    # 4 rows over 2 devices, 4 heads over 2 and 2, each with a copy of the one key head
    shard = got[0].sharding.shard_shape(got[0].shape)
    assert (shard[1], shard[3]) == (2, 1), shard
    blocks = jax.vmap(functools.partial(ops.dot_product_attention, form="chunked", **options))
    expected = value_and_gradients(blocks, given)
    for one, other in zip(got, expected, strict=True):
        compare.assert_relative(np.asarray(one), np.asarray(other), SHARDED)


def test_tokens_exchanged_for_heads_are_read_by_it():
    """Inside the shard_map over tokens, rows are split by another."""
    inputs = arrays((128, 128))[:3]
    mesh = jax.make_mesh((2, 2), ("data", "context"), axis_types=(AxisType.Auto,) * 2)
    options = {"is_causal": True, "form": "all_to_all"}
    with jax.set_mesh(mesh):
        kernel, blocks = (
            ops.context_attention(*inputs, implementation=name, **options)
            for name in ("pallas", "xla")
        )
    compare.assert_relative(np.asarray(kernel), np.asarray(blocks), SHARDED)
    with jax.set_mesh(mesh), pytest.raises(NotImplementedError, match=r"form='ring'.*'pallas'"):
        ops.context_attention(*inputs, implementation="pallas")


def tpu_mesh(**sizes):
    device = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    types = (AxisType.Auto,) * len(sizes)
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), types, abstract_device=device)


def traced(length=1024, dtype=jnp.bfloat16, **options):
    """Whether a call on a TPU, that asks for no implementation unless told to, is the kernel."""
    query = jax.ShapeDtypeStruct((2, length, 4, 64), dtype)
    key = jax.ShapeDtypeStruct((2, length, 2, 64), dtype)

    def call(query, key, value):
        return ops.dot_product_attention(query, key, value, **options)

    return "pallas_call" in str(jax.make_jaxpr(call)(query, key, key))


def test_a_tpu_takes_the_kernel_where_it_serves_and_nothing_else_does():
    assert not traced()
    bias = jnp.zeros((1, 1, 1, 1024), jnp.bfloat16)
    with jax.sharding.use_abstract_mesh(tpu_mesh(data=4)):
        assert traced()
        assert traced(is_causal=True, dtype=jnp.float32)
        assert traced(length=1500, local_window_size=(100, 0), logits_soft_cap=30.0)
        assert traced(segment_ids=jnp.zeros((2, 1024), jnp.int32), normalizer="softmax_one")
        assert traced(length=300, implementation="pallas")
        assert traced(length=300, implementation=("cudnn", "pallas", "xla"))
        for options in (
            {"length": 512},
            {"dtype": jnp.float16},
            {"normalizer": "sigmoid"},
            {"bias": bias},
            {"mask": jnp.ones((1, 1, 1024, 1024), bool)},
            {"form": "chunked"},
            {"chunk_size": 256},
            {"precision": "highest"},
            {"implementation": "xla"},
        ):
            assert not traced(**options), options


def test_what_it_does_not_serve_is_named():
    query, key, value, _ = arrays((128, 128))
    for options, reasons in (
        ({"normalizer": "sparsemax"}, r"pallas does not serve normalizer=Sparsemax\(.*\)\."),
        ({"bias": jnp.zeros(128), "chunk_size": 64}, "serve bias, chunk_size"),
        ({"mask": jnp.ones((128, 128), bool)}, r"a mask other than of keys, \[\*B, 1, 1, S\]"),
        ({"form": "parallel"}, "form='parallel'"),
        ({"precision": "highest"}, "precision"),
    ):
        message = rf"implementation='pallas' cannot serve.*available: 'xla'.*{reasons}"
        with pytest.raises(NotImplementedError, match=message):
            ops.dot_product_attention(query, key, value, implementation="pallas", **options)
    half = [x.astype(jnp.float16) for x in (query, key, value)]
    with pytest.raises(NotImplementedError, match="dtype float16"):
        ops.dot_product_attention(*half, implementation="pallas")
    options = {"local_window_size": (10, 0), "implementation": "pallas"}
    with pytest.raises(NotImplementedError, match="a window that lies beyond the keys"):
        ops.dot_product_attention(query, key[:, :20], value[:, :20], **options)
    # a list falls through: nobody wants an interpreter unasked
    several = ops.dot_product_attention(query, key, value, implementation=("pallas", "xla"))
    compare.assert_relative(several, ops.dot_product_attention(query, key, value), 0.0)


def test_a_language_model_trains_by_it():
    """The field of the model, packed rows, and layers that the backward pass computes again."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 130)))
    packed = segments(1, 130)
    losses = []
    for name in ("xla", "pallas"):
        options = {"attention": {"rotary_base": 1e4, "implementation": name, "kv_heads": 1}}
        model = scanmax.create_model("lm_tiny", depth=1, dim=16, remat=True, mixer_options=options)
        variables = model.init(jax.random.key(0), tokens)

        def loss(variables, model=model):
            logits = model.apply(variables, tokens, segment_ids=packed)
            return jnp.mean(jnp.square(jax.nn.log_softmax(logits)))

        losses.append(jax.jit(jax.value_and_grad(loss))(variables))
    chex.assert_trees_all_close(*losses, rtol=1e-4, atol=1e-6)
