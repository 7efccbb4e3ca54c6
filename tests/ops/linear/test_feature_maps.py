"""Feature maps by name, and the random features of the softmax kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.ops import reference
from scanmax.testing import OpCase, OpSuite


class PositiveRandomFeaturesTest(OpSuite):
    op = ops.positive_random_features
    reference = reference.positive_random_features
    cases = (
        OpCase(length=5, batch=(2,), per_head=True, full=True, options={"epsilon": 0.1}),
        OpCase(length=4, options={"stabilize": "token", "scale": 0.3}),
        OpCase(length=4, batch=(2,), options={"stabilize": "sequence"}),
    )
    errors = (
        ({"projection": lambda x: x[..., 1:]}, ValueError, r"projection has .*\[M, K\]"),
        ({"stabilize": "row"}, ValueError, "stabilize='row' is not one of"),
    )

    def make_args(self, rng, case):
        heads = (2,) if getattr(case, "per_head", False) else ()
        return {
            "x": rng.normal(size=(*case.batch, case.length, 2, 3)),
            "projection": rng.normal(size=(*heads, 5, 3)),
        }


class CosineFeaturesTest(OpSuite):
    op = ops.cosine_features
    reference = reference.cosine_features
    cases = (
        OpCase(length=5, batch=(2,), placed=True, full=True, options={"max_length": 9}),
        OpCase(length=4),
        OpCase(length=1, batch=(1, 2)),
    )
    errors = (
        ({"positions": lambda x: x[..., 1:]}, ValueError, r"positions has .*\[\*B, T\]"),
        ({"max_length": 0}, ValueError, "max_length=0; expected at least 1"),
    )

    def make_args(self, rng, case):
        args = {"x": rng.normal(size=(*case.batch, case.length, 2, 3))}
        if getattr(case, "placed", False):
            args["positions"] = rng.integers(0, 9, size=(*case.batch, case.length))
        return args


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("is_causal", [False, True])
def test_cosformer_in_linear_order_is_its_weighed_matrix(is_causal):
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(9, 2, 4)) for _ in range(3))
    # none of the first token's weights are to be 0 alone
    query[..., 0], key[..., 0] = abs(query[..., 0]), abs(key[..., 0])
    phi = [ops.cosine_features(jnp.asarray(x)) for x in (query, key)]
    y = ops.linear_attention(*phi, jnp.asarray(value), normalize=True, is_causal=is_causal)
    places = np.arange(9)
    weights = np.einsum("ihk,jhk->hij", np.maximum(query, 0), np.maximum(key, 0))
    weights *= np.cos(np.pi / 2 * (places[:, None] - places) / 9)
    weights *= places[:, None] >= places if is_causal else 1
    weights /= weights.sum(-1, keepdims=True)
    assert weights.min() >= 0
    np.testing.assert_allclose(y, np.einsum("hij,jhk->ihk", weights, value), rtol=1e-12)


@pytest.mark.parametrize("norms", ["chi", "constant"])
def test_orthogonal_random_features_are_those_of_gram_schmidt(norms):
    with jax.enable_x64(True):
        given = (jax.random.key(3), 7, 4)
        w = ops.orthogonal_random_features(*given, norms=norms, dtype=jnp.float64)
        expected = reference.orthogonal_random_features(*given, norms=norms, dtype=jnp.float64)
        np.testing.assert_allclose(w, expected, atol=1e-10)
        products = np.asarray(w[:4] @ w[:4].T)
    np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-10)
    with pytest.raises(ValueError, match="norms='one' is not one of"):
        ops.orthogonal_random_features(*given, norms="one")


def _estimates(draw, q, k, number):
    """Kernel estimates, one per draw of the projection."""

    def estimate(key):
        phi_q, phi_k = (
            ops.positive_random_features(x[None], draw(key), scale=1.0)[0] for x in (q, k)
        )
        return phi_q @ phi_k

    return np.asarray(jax.vmap(estimate)(jax.random.split(jax.random.key(0), number)), np.float64)


def test_the_kernel_is_estimated_without_bias_and_better_by_orthogonal_directions():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(0.7 * rng.normal(size=4), jnp.float32) for _ in range(2))
    number, exact = 20000, float(jnp.exp(q @ k))

    def orthogonal(key):
        return ops.orthogonal_random_features(key, 4, 4)

    def independent(key):
        return jax.random.normal(key, (4, 4))

    ours, plain = (_estimates(draw, q, k, number) for draw in (orthogonal, independent))
    # four standard deviations of the mean
    assert abs(ours.mean() - exact) < 4 * ours.std() / number**0.5
    assert abs(plain.mean() - exact) < 4 * plain.std() / number**0.5
    assert ours.std() < 0.97 * plain.std()


@pytest.mark.usefixtures("float64")
def test_stabilisers_cancel_in_normalised_attention():
    rng = np.random.default_rng(1)
    query, key, value = (jnp.asarray(rng.normal(size=(9, 2, 4))) for _ in range(3))
    w = ops.orthogonal_random_features(jax.random.key(0), 6, 4)

    def attend(query, key, *stabilize):
        phi = (
            ops.positive_random_features(x, w, stabilize=how)
            for x, how in zip((query, key), stabilize)
        )
        return ops.linear_attention(*phi, value, normalize=True, is_causal=False)

    plain = attend(query, key, None, None)
    np.testing.assert_allclose(attend(query, key, "token", "sequence"), plain, rtol=1e-10)
    # without them queries of this size overflow
    large = attend(100 * query, key, "token", "sequence")
    assert bool(jnp.isfinite(large).all())


@pytest.mark.usefixtures("float64")
def test_named_maps():
    rng = np.random.default_rng(2)
    q, k = (jnp.asarray(rng.normal(size=(5, 1, 6))) for _ in range(2))
    s = (q[:, 0] @ k[:, 0].T) / 6**0.5
    taylor = ops.linear_attention_matrix(q, k, feature_map="taylor", is_causal=False)[0]
    np.testing.assert_allclose(taylor, 1 + s + s**2 / 2, rtol=1e-10)
    squared = ops.linear_attention_matrix(q, k, feature_map="squared_relu", is_causal=False)[0]
    relu = np.maximum(q[:, 0], 0) ** 2 @ (np.maximum(k[:, 0], 0) ** 2).T
    np.testing.assert_allclose(squared, relu, rtol=1e-10)
    assert set(ops.FEATURE_MAPS) == {None, "elu", "relu", "softmax", "squared_relu", "taylor"}


@pytest.mark.usefixtures("float64")
def test_a_wider_map_widens_the_state():
    rng = np.random.default_rng(3)
    query, key, value = (jnp.asarray(rng.normal(size=(6, 2, 3))) for _ in range(3))
    options = {"feature_map": "taylor", "normalize": True}
    whole = ops.linear_attention(query, key, value, **options)
    np.testing.assert_allclose(
        whole, reference.linear_attention(query, key, value, **options), rtol=1e-10, atol=1e-10
    )
    y, state = ops.linear_attention(query[:5], key[:5], value[:5], return_state=True, **options)
    assert state.shape == (2, 1 + 3 + 6, 4)
    last, _ = ops.linear_attention_step(state, query[5], key[5], value[5], **options)
    np.testing.assert_allclose(jnp.concatenate([y, last[None]]), whole, rtol=1e-10, atol=1e-10)
