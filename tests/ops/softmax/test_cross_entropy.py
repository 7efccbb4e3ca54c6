"""Cross-entropy of a linear head in pieces: its equation, its shards, its room."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class LinearCrossEntropyTest(OpSuite):
    op = ops.linear_cross_entropy
    reference = reference.linear_cross_entropy
    accumulated = (0,)
    cases = (
        OpCase(length=7, batch=(2,), full=True, options={"chunk_size": 3}),
        OpCase(length=5, options={"chunk_size": 2, "return_prediction": True}),
        OpCase(length=4, batch=(1, 2), options={"label_smoothing": 0.1, "chunk_size": 4}),
        OpCase(length=4, batch=(2,), options={"label_smoothing": 0.3}, bias=False),
        OpCase(length=1, batch=(2,)),
    )
    errors = (
        ({"kernel": lambda z: z[1:]}, ValueError, r"kernel has shape .*\[D, V\]"),
        ({"labels": lambda z: z[..., 1:]}, ValueError, r"labels has shape .*\[\*B, T\]"),
        ({"labels": lambda z: z.astype(float)}, ValueError, "labels has dtype .*expected integers"),
        ({"bias": lambda z: z[1:]}, ValueError, r"bias has shape .*\[V\]"),
        ({"chunk_size": 0}, ValueError, "chunk_size=0; expected at least 1"),
        ({"label_smoothing": 2.0}, ValueError, "label_smoothing=2.0; expected"),
    )

    def make_args(self, rng, case):
        shape = (*case.batch, case.length)
        args = {
            "x": rng.normal(size=(*shape, 3)),
            "kernel": rng.normal(size=(3, 17)),
            "labels": rng.integers(-1, 17, size=shape).astype(np.int32),
        }
        return args | ({} if hasattr(case, "bias") else {"bias": rng.normal(size=17)})


def example(rows=8, length=6, dim=8, classes=64):
    x, kernel = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in enumerate([(rows, length, dim), (dim, classes)])
    )
    return x, kernel, jax.random.randint(jax.random.key(2), (rows, length), 0, classes)


def total(x, kernel, labels, chunk_size=2):
    return ops.linear_cross_entropy(x, kernel, labels, chunk_size=chunk_size).sum()


def test_rows_and_classes_may_lie_on_different_devices():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
    places = [P("data"), P(None, "model"), P("data")]
    shardings = [NamedSharding(mesh, place) for place in places]
    with jax.enable_x64(True):
        args = [jnp.asarray(np.asarray(z), jnp.float64) for z in example()[:2]]
        args = [*args, example()[2]]
        step = jax.jit(jax.value_and_grad(total, (0, 1)), in_shardings=shardings)
        compiled = step.lower(*args).compile()
        compare.assert_relative(
            compiled(*jax.device_put(args, shardings)),
            jax.value_and_grad(total, (0, 1))(*args),
            1e-12,
        )
        text = compiled.as_text()
    # No device ever holds all classes of a token, nor the rows of another.
    assert "f64[8,2,64]" not in text
    assert "f64[2,2,64]" not in text
    assert "f64[2,2,32]" in text


def test_logits_of_a_piece_are_all_the_room_that_it_takes():
    args = example(rows=2, length=256, dim=8, classes=4096)

    def room(chunk_size):
        step = jax.jit(jax.grad(total, (0, 1)), static_argnums=3)
        return step.lower(*args, chunk_size).compile().memory_analysis().temp_size_in_bytes

    logits = 2 * 256 * 4096 * 4
    assert room(256) > logits
    assert room(16) < logits / 4
