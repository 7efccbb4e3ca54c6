"""Neighbourhoods and MSA-Conv against dense masked attention and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from local_maps import MatrixCase, make_maps

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite, compare


class NeighborhoodAttentionTest(OpSuite):
    op = ops.neighborhood_attention
    reference = reference.neighborhood_attention
    cases = (
        # everything at once, in blocks that do not fit
        OpCase(
            grid=(4, 5),
            batch=(2,),
            heads=(4, 2),
            globals=2,
            scale=0.7,
            table=(5, 5),
            options={"kernel_size": 3, "chunk_size": 3},
            full=True,
        ),
        OpCase(
            grid=(4, 5),
            table=(3, 3),
            options={"kernel_size": 3, "edges": "masked", "normalizer": "sigmoid"},
            forms=("parallel", "chunked"),
        ),
        # dilated maps of unequal sizes, some of them smaller than the kernel
        OpCase(grid=(4, 5), table=(5, 5), options={"kernel_size": 3, "dilation": (3, 2)}),
        OpCase(
            grid=(4, 5),
            options={"kernel_size": 3, "dilation": (3, 2), "edges": "zero", "chunk_size": 2},
            forms=("parallel", "chunked"),
        ),
        OpCase(grid=(1, 2), table=(9, 9), options={"kernel_size": 5}),
    )
    errors = (
        ({"key": lambda x: x[..., :1, :][..., [0, 0, 0], :]}, ValueError, "its 3 heads do not"),
        ({"key": lambda x: x[:, :3]}, ValueError, r"key has shape \(2, 3, 5, 2, 5\); expected"),
        ({"value": lambda x: x[0]}, ValueError, "value has shape .* expected"),
        ({"query": lambda x: x[0, 0]}, ValueError, "query has shape .* at least 4 axes"),
        ({"query": lambda x: x.astype(jnp.int32)}, ValueError, "query has dtype int32"),
        ({"global_value": None}, ValueError, "given together"),
        ({"global_key": lambda x: x[..., :4]}, ValueError, "global_key has shape"),
        ({"relative_bias": lambda x: x[:, :3]}, ValueError, r"\[H, rows, columns\] = \(4, 5, 5\)"),
        ({"kernel_size": 4}, ValueError, "kernel_size=4; expected odd"),
        ({"kernel_size": (3, 0)}, ValueError, r"kernel_size=\(3, 0\); expected an integer"),
        ({"dilation": 0}, ValueError, "dilation=0; expected"),
        ({"edges": "wrap"}, ValueError, "edges='wrap' is not one of 'clamped'"),
        ({"form": "parallel"}, ValueError, "at the edges the offsets differ"),
        ({"form": "recurrent"}, ValueError, "form='recurrent'"),
        ({"chunk_size": 0}, ValueError, "chunk_size=0"),
        ({"normalizer": "softmin"}, ValueError, "normalizer='softmin'"),
    )

    def make_args(self, rng, case):
        return make_maps(rng, case, getattr(case, "table", None))

    def test_normalizers_of_other_kinds(self):
        case = OpCase(grid=(3, 4), globals=1)
        args = {k: jnp.asarray(v) for k, v in make_maps(np.random.default_rng(0), case).items()}
        # by visible keys, twice normalised, by a threshold
        for form, normalizer in (
            ("parallel", "softplus"),
            ("chunked", "lssar"),
            ("chunked", "sparsemax"),
        ):
            options = {"kernel_size": 3, "edges": "masked", "normalizer": normalizer}
            expected = reference.neighborhood_attention(**args, **options)
            actual = ops.neighborhood_attention(**args, **options, form=form)
            compare.assert_relative(actual, expected, 1e-12)


class MsaConvTest(OpSuite):
    op = ops.msa_conv
    reference = reference.msa_conv
    cases = (
        OpCase(
            grid=(5, 4),
            batch=(2,),
            heads=(4, 2),
            globals=1,
            scale=0.7,
            table=(3, 1),
            options={"kernel_size": (3, 1), "stride": (2, 1)},
            forms=("parallel", "chunked"),
            full=True,
        ),
        OpCase(grid=(5, 4), options={"stride": (1, 3), "dilation": 2, "edges": "masked"}),
        OpCase(grid=(5, 4), options={"kernel_size": 5, "stride": 3}),
        OpCase(grid=(1, 1), options={"stride": 2}),
    )
    errors = (
        ({"edges": "clamped"}, ValueError, "edges='clamped' is not one of 'masked', 'zero'"),
        ({"stride": 0}, ValueError, "stride=0; expected"),
        ({"dilation": 2, "form": "chunked"}, ValueError, "takes only one of them"),
    )

    def make_args(self, rng, case):
        return make_maps(rng, case, getattr(case, "table", None))

    def test_equal_scores_make_an_average_filter(self):
        # a constant key scores every tap alike only where no tap is a zero
        rng = np.random.default_rng(0)
        value = jnp.asarray(rng.normal(size=(6, 5, 1, 3)))
        key = jnp.zeros((6, 5, 1, 4))
        mean = jnp.full((3, 3, 1, 3), 1 / 9)
        for stride, dilation in ((1, 1), (2, 1), (1, 2)):
            options = {"stride": stride, "dilation": dilation}
            expected = ops.depthwise_conv2d(value[..., 0, :], mean, padding=dilation, **options)
            actual = ops.msa_conv(key, key, value, **options)[..., 0, :]
            compare.assert_relative(actual, expected, 1e-12)


class MatricesTest(MatrixCase):
    """Matrices of neighbourhoods."""

    def test_neighborhood_attention_matrix(self):
        def matrix(module, **given):
            return module.neighborhood_attention_matrix(**given)

        self.check("neighborhood_attention", matrix, (5, 5), {"kernel_size": 3})
        self.check("neighborhood_attention", matrix, (3, 3), {"kernel_size": 3, "edges": "zero"})

    def test_msa_conv_matrix(self):
        def matrix(module, **given):
            return module.msa_conv_matrix(**given)

        self.check("msa_conv", matrix, (3, 3), {"kernel_size": 3, "edges": "masked", "dilation": 2})
        self.check("msa_conv", matrix, None, {"stride": 2})


def test_groups_of_heads_are_shifted_apart_and_back():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 5, 6, 3)), jnp.float32)
    moved = ops.multi_directional_cyclic_shift(x, 2)
    np.testing.assert_array_equal(moved, reference.multi_directional_cyclic_shift(x, 2))
    np.testing.assert_array_equal(ops.multi_directional_cyclic_shift(moved, -2), x)
    few = x[..., :2, :]
    np.testing.assert_array_equal(
        ops.multi_directional_cyclic_shift(few, 1), reference.multi_directional_cyclic_shift(few, 1)
    )


@pytest.mark.usefixtures("float64")
def test_neighbourhoods_follow_a_shift():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 9, 8, 2, 4)))
    moved = jnp.roll(x, (1, 2), (1, 2))
    for edges in ("clamped", "masked", "zero"):
        for dilation, margin in ((1, 1), (2, 2)):

            def attend(x, edges=edges, dilation=dilation):
                return ops.neighborhood_attention(*x, kernel_size=3, dilation=dilation, edges=edges)

            inner = slice(margin + 1, -margin), slice(margin + 2, -margin)
            np.testing.assert_allclose(
                attend(moved)[inner], jnp.roll(attend(x), (1, 2), (0, 1))[inner], rtol=1e-10
            )


def test_training_memory_is_linear_and_below_the_dense_one():
    def train(x):
        return jax.grad(lambda x: jnp.sum(ops.neighborhood_attention(x, x, x, kernel_size=5) ** 2))(
            x
        )

    def temporary(side):
        x = jax.ShapeDtypeStruct((side, side, 2, 16), jnp.float32)
        return jax.jit(train).lower(x).compile().memory_analysis().temp_size_in_bytes

    small, large = temporary(24), temporary(48)
    assert large < 5 * small
    assert large < 0.1 * 4 * 2 * 48**4
