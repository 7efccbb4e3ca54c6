"""State-space duality, causal and not, and the selective scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite

FORMS = ("recurrent", "chunked", "parallel")
EVERYTHING = {"dt_softplus": True, "dt_limit": (0.05, 1.5)}


def lengths(chunks=True, **sizes):
    """The contract's lengths and batch axes, but for the 7 of the full case.

    Only the chunked form knows about blocks of tokens; the others are tried at the ends.
    """
    return tuple(
        OpCase(
            length=case.length,
            batch=case.batch,
            forms=("chunked",) if chunks and case.length not in (1, 200) else None,
            **sizes,
        )
        for case in OpCase.lengths()
        if case.length != 7
    )


def heads_args(rng, case, with_x=True):
    """Arguments of the ops with heads, as a dict by name."""
    heads, groups, states, width = getattr(case, "sizes", (4, 2, 5, 3))
    lead = (*case.batch, case.length)
    args = {
        "x": rng.normal(size=(*lead, heads, width)),
        "dt": rng.normal(size=(*lead, heads)),
        "A": -np.exp(rng.normal(size=heads)),
        "B": rng.normal(size=(*lead, groups, states)),
        "C": rng.normal(size=(*lead, groups, states)),
        "D": rng.normal(size=heads),
        "dt_bias": rng.normal(size=heads),
    }
    if not case.options:
        args |= {"dt": rng.uniform(0, 0.5, size=(*lead, heads)), "D": None, "dt_bias": None}
    if hasattr(case, "packed"):
        args["segment_ids"] = np.sort(rng.integers(0, 4, size=lead), -1)
    if not with_x:
        del args["x"]
    return args


HEADS_ERRORS = (
    ({"A": lambda x: x[1:]}, ValueError, r"A has shape .*\[H\]"),
    ({"B": lambda x: x[..., :1, :, :]}, ValueError, "B has shape"),
    ({"C": lambda x: x[..., 1:]}, ValueError, "C has shape"),
    ({"D": lambda x: x[1:]}, ValueError, r"D has shape .*\[H\]"),
)


class SsdTest(OpSuite):
    op = ops.ssd
    reference = reference.ssd
    step = ops.ssd_step
    forms = FORMS
    sequence = ("x", "dt", "B", "C")
    cases = (
        *lengths(options={**EVERYTHING, "chunk_size": 16}),
        # the parallel form is one chunk
        OpCase(
            length=7,
            batch=(2,),
            full=True,
            forms=("recurrent", "chunked"),
            options={**EVERYTHING, "chunk_size": 3},
        ),
        # one group, no extras
        OpCase(length=7, sizes=(3, 1, 2, 1)),
        OpCase(length=20, batch=(2,), packed=True, options={"chunk_size": 8}),
        OpCase(
            length=9,
            packed=True,
            full=True,
            resume=False,
            options={**EVERYTHING, "chunk_size": 4, "is_causal": False},
        ),
        OpCase(length=1, batch=(2,), options={"is_causal": False}),
    )
    errors = (
        *HEADS_ERRORS,
        ({"is_causal": False}, ValueError, "need is_causal=True"),
        ({"dt": lambda x: x[..., None]}, ValueError, r"dt has shape .*\[\*B, T, H\]"),
        ({"initial_state": lambda x: x[..., 1:]}, ValueError, "initial_state has shape"),
        ({"form": "sideways"}, ValueError, "form='sideways' is not one of"),
        ({"implementation": "pallas"}, NotImplementedError, "ssd"),
    )
    make_args = staticmethod(heads_args)


class NonCausalSsdTest(OpSuite):
    op = ops.nc_ssd
    reference = reference.nc_ssd
    sequence = ("x", "dt", "B", "C")
    cases = (
        *lengths(chunks=False),
        OpCase(length=7, batch=(2,), full=True, options={**EVERYTHING, "positive": False}),
        OpCase(length=3, batch=(2,), options={"group_order": "turns"}, sizes=(6, 2, 5, 3)),
    )
    errors = (
        *HEADS_ERRORS,
        (
            {"group_order": "heads"},
            ValueError,
            "group_order='heads' is not one of 'blocks', 'turns'",
        ),
    )
    make_args = staticmethod(heads_args)

    def test_heads_take_groups_in_blocks_or_in_turns(self):
        rng = np.random.default_rng(0)
        args = heads_args(rng, OpCase(length=3, sizes=(4, 2, 5, 3)))
        args = {name: value for name, value in args.items() if value is not None}
        for order, groups in (("blocks", (0, 0, 1, 1)), ("turns", (0, 1, 0, 1))):
            y = ops.nc_ssd(**args, group_order=order)
            matrix = ops.nc_ssd_matrix(
                **{name: args[name] for name in ("dt", "A", "B", "C")}, group_order=order
            )
            for head, group in enumerate(groups):
                weights = -args["dt"][:, head] * args["A"][head]
                scores = args["C"][:, group] @ args["B"][:, group].T * weights
                np.testing.assert_allclose(matrix[head], scores, rtol=1e-12)
                np.testing.assert_allclose(y[:, head], scores @ args["x"][:, head], rtol=1e-12)


class SelectiveScanTest(OpSuite):
    op = ops.selective_scan
    reference = reference.selective_scan
    step = ops.selective_scan_step
    forms = FORMS
    sequence = ("x", "dt", "B", "C")
    cases = (
        *lengths(options={"chunk_size": 16}),
        OpCase(
            length=7,
            batch=(2,),
            full=True,
            forms=("recurrent", "chunked"),
            options={"dt_softplus": True, "chunk_size": 3},
        ),
        OpCase(length=20, batch=(2,), packed=True, options={"chunk_size": 8}),
        OpCase(
            length=9,
            packed=True,
            full=True,
            resume=False,
            options={"dt_softplus": True, "chunk_size": 4, "is_causal": False},
        ),
        OpCase(length=1, batch=(2,), options={"is_causal": False}),
    )
    errors = (
        ({"is_causal": False}, ValueError, "need is_causal=True"),
        ({"A": lambda x: x[1:]}, ValueError, r"A has shape .*\[D, N\]"),
        ({"segment_ids": np.zeros(3, int)}, ValueError, "segment_ids has shape"),
        ({"B": lambda x: x[..., 1:]}, ValueError, r"B has shape .*\[\*B, T, N\]"),
        ({"dt": lambda x: x[..., 1:]}, ValueError, "dt has shape .*the shape of x"),
        ({"initial_state": lambda x: x[..., 1:]}, ValueError, "initial_state has shape"),
        ({"form": "sideways"}, ValueError, "form='sideways' is not one of"),
    )

    def make_args(self, rng, case):
        lead, dim, states = (*case.batch, case.length), 5, 3
        packed = hasattr(case, "packed")
        return {
            "segment_ids": np.sort(rng.integers(0, 4, size=lead), -1) if packed else None,
            "x": rng.normal(size=(*lead, dim)),
            "dt": rng.uniform(0, 0.5, size=(*lead, dim)),
            "A": -np.exp(rng.normal(size=(dim, states))),
            "B": rng.normal(size=(*lead, states)),
            "C": rng.normal(size=(*lead, states)),
            "D": rng.normal(size=dim),
            "dt_bias": rng.normal(size=dim),
        }


class MatrixSuite(OpSuite):
    """A matrix view: equal to its twin, and applied to the tokens equal to its op."""

    __test__ = False
    whole = None
    tokens = ""

    def test_the_matrix_applied_to_the_tokens_is_the_op(self):
        for case in self.cases:
            arrays, options = self.inputs(case)
            x = np.random.default_rng(1).normal(size=self.token_shape(arrays))
            matrix = self.compiled(options)(**arrays)
            y = jnp.einsum(self.tokens, matrix, jnp.asarray(x))
            expected = type(self).whole(jnp.asarray(x), **arrays, **options)
            np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


class SsdMatrixTest(MatrixSuite):
    op = ops.ssd_matrix
    reference = reference.ssd_matrix
    whole = staticmethod(ops.ssd)
    tokens = "...hij,...jhp->...ihp"
    cases = (
        OpCase(length=9, batch=(2,), full=True, options=EVERYTHING),
        OpCase(length=9, batch=(2,), packed=True, options=EVERYTHING),
        OpCase(length=9, packed=True, full=True, options={**EVERYTHING, "is_causal": False}),
    )
    errors = HEADS_ERRORS

    def make_args(self, rng, case):
        return heads_args(rng, case, with_x=False)

    def token_shape(self, arrays):
        return (*arrays["dt"].shape, 2)


class NonCausalSsdMatrixTest(SsdMatrixTest):
    op = ops.nc_ssd_matrix
    reference = reference.nc_ssd_matrix
    whole = staticmethod(ops.nc_ssd)
    cases = SsdMatrixTest.cases[:1]


class SelectiveScanMatrixTest(MatrixSuite):
    op = ops.selective_scan_matrix
    reference = reference.selective_scan_matrix
    whole = staticmethod(ops.selective_scan)
    tokens = "...dij,...jd->...id"
    cases = (
        OpCase(length=9, batch=(2,), full=True, options={"dt_softplus": True}),
        OpCase(length=9, batch=(2,), packed=True, options={"dt_softplus": True}),
        OpCase(length=9, packed=True, full=True, options={"is_causal": False}),
    )
    errors = (({"A": lambda x: x[1:]}, ValueError, r"A has shape .*\[D, N\]"),)

    def make_args(self, rng, case):
        args = SelectiveScanTest.make_args(self, rng, case)
        del args["x"]
        return args

    def token_shape(self, arrays):
        return arrays["dt"].shape


def _normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape))


def _ssd_inputs(length, heads=2, states=4, width=3):
    rng = np.random.default_rng(0)
    return (
        _normal(rng, length, heads, width),
        jnp.abs(_normal(rng, length, heads)),
        -jnp.exp(_normal(rng, heads)),
        _normal(rng, length, 1, states),
        _normal(rng, length, 1, states),
    )


@pytest.mark.usefixtures("float64")
def test_duality_ssd_is_linear_attention():
    x, dt, A, B, C = _ssd_inputs(20)
    y = ops.linear_attention(C, B, x * dt[..., None], log_decay=dt * A[None])
    np.testing.assert_allclose(ops.ssd(x, dt, A, B, C), y, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_both_directions_of_ssd_are_those_of_linear_attention():
    x, dt, A, B, C = _ssd_inputs(20)
    options = {"is_causal": False, "chunk_size": 8}
    y = ops.linear_attention(C, B, x * dt[..., None], log_decay=dt * A[None], **options)
    np.testing.assert_allclose(ops.ssd(x, dt, A, B, C, **options), y, rtol=1e-10, atol=1e-10)
    one = ops.ssd(x[..., :1], dt, A, B, C, **options)[..., 0]
    rates = A[:, None] * jnp.ones((1, 4))
    scan = ops.selective_scan(x[..., 0], dt, rates, B[:, 0], C[:, 0], is_causal=False)
    np.testing.assert_allclose(one, scan, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_the_selective_scan_is_linear_attention_over_heads_of_width_one():
    x, dt, _, B, C = _ssd_inputs(20, states=4, width=1)
    x, B, C = x[..., 0], B[:, 0], C[:, 0]
    A = -jnp.exp(_normal(np.random.default_rng(1), 2, 4))
    y, state = ops.selective_scan(x, dt, A, B, C, return_state=True)
    other, other_state = ops.linear_attention(
        C[:, None],
        B[:, None],
        (x * dt)[..., None],
        log_decay=dt[..., None] * A[None],
        return_state=True,
    )
    np.testing.assert_allclose(y, other[..., 0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(state, other_state[..., 0], rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_the_selective_scan_with_equal_rates_is_ssd_with_heads_of_width_one():
    x, dt, A, B, C = _ssd_inputs(20, width=1)
    y = ops.selective_scan(x[..., 0], dt, A[:, None] * jnp.ones((1, 4)), B[:, 0], C[:, 0])
    np.testing.assert_allclose(ops.ssd(x, dt, A, B, C)[..., 0], y, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_non_causal_is_both_directions_without_decay_less_the_diagonal():
    x, dt, A, B, C = _ssd_inputs(9)
    weights = -dt * A[None]
    both = sum(
        jnp.flip(
            ops.ssd(
                *(jnp.flip(z, 0) if flip else z for z in (x, weights)),
                0 * A,
                *(jnp.flip(z, 0) if flip else z for z in (B, C)),
            ),
            0,
        )
        if flip
        else ops.ssd(x, weights, 0 * A, B, C)
        for flip in (False, True)
    )
    diagonal = jnp.einsum("tgn,tgn->t", B, C)[:, None, None] * weights[..., None] * x
    np.testing.assert_allclose(ops.nc_ssd(x, dt, A, B, C), both - diagonal, rtol=1e-10, atol=1e-10)
    negative = ops.nc_ssd(x, dt, A, B, C, positive=False)
    np.testing.assert_allclose(negative, -ops.nc_ssd(x, dt, A, B, C), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_non_causal_does_not_know_the_order_of_tokens():
    x, dt, A, B, C = _ssd_inputs(9)
    order = np.random.default_rng(2).permutation(9)
    shuffled = ops.nc_ssd(x[order], dt[order], A, B[order], C[order])
    np.testing.assert_allclose(shuffled, ops.nc_ssd(x, dt, A, B, C)[order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rate", [30.0, 1000.0])
def test_strong_decays_keep_their_digits_and_finite_gradients(rate):
    x, dt, A, B, C = _ssd_inputs(130)
    # a stretch that forgets everything, then one that remembers
    dt = dt.at[:40].mul(rate).at[40:].mul(1e-3)
    with jax.enable_x64(True):
        exact = reference.ssd(*(jnp.asarray(z, jnp.float64) for z in (x, dt, A, B, C)))
    y = ops.ssd(x, dt, A, B, C)
    exact = np.asarray(exact)
    error = np.linalg.norm(np.asarray(y, np.float64) - exact) / np.linalg.norm(exact)
    assert error < 2e-6
    gradients = jax.grad(lambda *z: ops.ssd(*z).sum(), argnums=(0, 1, 2, 3, 4))(x, dt, A, B, C)
    assert all(bool(jnp.isfinite(g).all()) for g in gradients)


def _training_memory(op, shapes):
    """Bytes of temporaries of one gradient, at batch 1."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    loss = jax.grad(lambda *z: op(*z).sum(), argnums=tuple(range(len(arrays))))
    return jax.jit(loss).lower(*arrays).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", ["ssd", "selective_scan"])
def test_training_memory_is_linear_in_tokens_and_far_from_all_states(name):
    def shapes(length):
        if name == "ssd":
            heads, width, states = 4, 16, 64
            group = (1, length, 1, states)
            return (1, length, heads, width), (1, length, heads), (heads,), group, group
        dim, states = 64, 64
        token, state = (1, length, dim), (1, length, states)
        return token, token, (dim, states), state, state

    small, large = (_training_memory(getattr(ops, name), shapes(t)) for t in (1024, 4096))
    assert large < 4.5 * small
    all_states = 4096 * 64 * 64 * 4
    assert large < all_states / 4


SHARDED = {
    "ssd": lambda A, x, dt, B, C: ops.ssd(
        x[..., None], dt, A[:, 0], B[:, :, None], C[:, :, None], chunk_size=2
    ),
    "selective_scan": lambda A, x, dt, B, C: ops.selective_scan(x, dt, A, B, C, chunk_size=2),
    "selective_scan, chunked": lambda A, x, dt, B, C: ops.selective_scan(
        x, dt, A, B, C, chunk_size=2, form="chunked"
    ),
    "linear_attention": lambda A, x, dt, B, C: ops.linear_attention(
        C[:, :, None] * A[None, :1, None], B[:, :, None], x[:, :, None], chunk_size=2
    ),
    "diagonal_scan": lambda A, x, dt, B, C: ops.diagonal_scan(
        jnp.broadcast_to(A[None, :1], B.shape), B * C, form="chunked", chunk_size=2
    ),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", list(SHARDED))
def test_gradients_on_shards_equal_those_on_one_device(name):
    rng = np.random.default_rng(0)
    A = -jnp.exp(_normal(rng, 2, 3))
    tokens = _normal(rng, 8, 5, 2), jnp.abs(_normal(rng, 8, 5, 2)), *_normal(rng, 2, 8, 5, 3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    sharded = jax.shard_map(
        SHARDED[name], mesh=mesh, in_specs=(whole, *[split] * 4), out_specs=split
    )

    def gradients(op):
        return jax.jit(jax.grad(lambda *z: (op(*z) ** 2).sum(), argnums=(0, 3)))(A, *tokens)

    # the shards share A: its gradient is the sum of theirs
    for actual, expected in zip(gradients(sharded), gradients(SHARDED[name])):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)
