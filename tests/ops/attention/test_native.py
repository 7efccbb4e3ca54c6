"""Attention by the kernel in C++ for CPUs, against the equation."""

import functools
import shutil

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
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tolerances import SHARDED

import scanmax
from scanmax import ops
from scanmax.ops import native
from scanmax.ops.native import __main__ as command
from scanmax.testing import compare

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")
NATIVE = functools.partial(ops.dot_product_attention, implementation="cpu")
SERVED = {
    case: (sizes, {name: x for name, x in options.items() if name != "logits_soft_cap"})
    for case, (sizes, options) in CASES.items()
}


@needs_compiler
@pytest.mark.parametrize("case", SERVED)
def test_values_and_gradients_are_those_of_the_equation(case):
    assert_is_the_equation(case, *SERVED[case], "cpu")


@needs_compiler
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_lengths_that_fill_no_block_and_logits_that_overflow(scale):
    """Blocks of 96 and 128, panels of 16 or 32; a scale that is learned has its gradient."""
    for T, S in ((1, 1), (49, 130), (257, 31)):
        *inputs, d_y = arrays((T, S), heads=(2, 2), widths=(19, 5))
        inputs.append(jnp.float32(scale))

        def call(function, query, key, value, scale):
            return function(query, key, value, scale=scale)

        got, expected = (
            value_and_gradients(functools.partial(call, function), [*inputs, d_y])
            for function in (NATIVE, functools.partial(ops.dot_product_attention, form="parallel"))
        )
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4 * scale, rtol=2e-4)


@needs_compiler
def test_rows_and_heads_over_a_mesh_and_a_batch_by_vmap():
    given = arrays((128, 128), heads=(4, 2), batch=(2, 4))
    options = {"is_causal": True, "segment_ids": segments(4, 128)}

    def run(*given):
        y, pull = jax.vjp(jax.vmap(functools.partial(NATIVE, **options)), *given[:3])
        return [y, *pull(given[3])]

    expected = jax.jit(run)(*given)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(None, "data"))
        got = jax.jit(run)(*(jax.device_put(x, rows) for x in given))
    shard = got[0].sharding.shard_shape(got[0].shape)
    assert (shard[1], shard[3]) == (2, 2), shard
    blocks = jax.vmap(functools.partial(ops.dot_product_attention, form="chunked", **options))
    for one, two, other in zip(got, expected, value_and_gradients(blocks, given), strict=True):
        compare.assert_relative(np.asarray(one), np.asarray(other), SHARDED)
        compare.assert_relative(np.asarray(two), np.asarray(other), SHARDED)


def is_native(shape=(2, 64, 4, 8), dtype=jnp.float32, **options):
    """Whether a call is the kernel."""
    # What was traced in another environment is not asked again.
    jax.clear_caches()
    query = jax.ShapeDtypeStruct(shape, dtype)
    call = functools.partial(ops.dot_product_attention, **options)
    return "scanmax_attention" in str(jax.make_jaxpr(call)(query, query, query))


@needs_compiler
def test_it_is_taken_by_name_or_where_the_environment_says(monkeypatch):
    monkeypatch.delenv("SCANMAX_NATIVE", raising=False)
    assert not is_native()
    assert is_native(implementation="cpu")
    assert is_native(implementation=("pallas", "cpu", "xla"), dtype=jnp.float32)
    monkeypatch.setenv("SCANMAX_NATIVE", "1")
    assert is_native()
    assert is_native(is_causal=True, normalizer="softmax_one", local_window_size=(9, 0))
    for options in (
        {"dtype": jnp.bfloat16},
        {"normalizer": "sigmoid"},
        {"bias": jnp.zeros((1, 1, 1, 64))},
        {"mask": jnp.ones((1, 1, 64, 64), bool)},
        {"logits_soft_cap": 3.0},
        {"form": "chunked"},
        {"chunk_size": 32},
        {"implementation": "xla"},
        {"shape": (0, 64, 4, 8)},
    ):
        assert not is_native(**options), options
    model = scanmax.create_model("deit_tiny_patch16_224", depth=1)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert "scanmax_attention" in str(jax.make_jaxpr(model.apply)(variables, image))


def test_a_machine_without_a_compiler_says_so(monkeypatch, tmp_path, capsys):
    native.obstacle.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(NotImplementedError, match=r"'cpu'.*no C\+\+ compiler.*CXX"):
            is_native(implementation="cpu")
        assert command.main() == 1
        assert "no C++ compiler" in capsys.readouterr().err
        monkeypatch.setenv("SCANMAX_NATIVE", "1")
        assert not is_native()
        native.obstacle.cache_clear()
        monkeypatch.setenv("CXX", "false")
        with pytest.raises(NotImplementedError, match=r"false fails: exit status 1"):
            is_native(implementation="cpu")
    finally:
        native.obstacle.cache_clear()


@needs_compiler
def test_the_command_compiles_once(capsys):
    assert command.main() == 0
    path = native.build()
    assert str(path) in capsys.readouterr().out
    stamp = path.stat().st_mtime_ns
    assert native.build().stat().st_mtime_ns == stamp
