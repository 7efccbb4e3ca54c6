"""Modules that change the number of tokens, and ViTs that shed them on the way."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.analysis import count_multiply_adds
from scanmax.models.parts.tokens import (
    AttentionalSetPool,
    FilterTokenizer,
    RecurrentTokenizer,
    ReverseTokenSlimming,
    TokenProjector,
    TokenSlimming,
    TokenTransformer,
)
from scanmax.models.vision.token_reduction import TokenReduction

X, TOKENS = (
    jax.random.normal(jax.random.key(seed), shape)
    for seed, shape in enumerate(((2, 9, 6), (2, 4, 6)))
)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def randomised(module, *args):
    """Random parameters: none stays at a start that hides a gradient."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape) + 0.1, leaf.dtype),
        nn.unbox(shapes),
    )


@pytest.mark.parametrize(
    ("module", "args", "shape"),
    [
        (TokenSlimming(4), (X,), (2, 4, 6)),
        (ReverseTokenSlimming(9), (TOKENS,), (2, 9, 6)),
        (FilterTokenizer(4), (X,), (2, 4, 6)),
        (RecurrentTokenizer(), (X, TOKENS), (2, 4, 6)),
        (TokenTransformer(), (TOKENS,), (2, 4, 6)),
        (TokenProjector(), (X, TOKENS), (2, 9, 6)),
        (AttentionalSetPool(), (X,), (2, 6)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_modules_train(module, args, shape):
    variables = randomised(module, *args)
    traces = 0

    @jax.jit
    def run(variables, *args):
        nonlocal traces
        traces += 1
        y, pull_back = jax.vjp(lambda v: module.apply(v, *args), variables)
        turn = jnp.cos(jnp.arange(float(y.size))).reshape(y.shape)
        return y, pull_back(turn)[0]

    y, gradients = run(variables, *args)
    run(variables, *(2 * z for z in args))
    assert traces == 1
    chex.assert_shape(y, shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    narrow = jax.eval_shape(module.clone(dtype=jnp.bfloat16).apply, variables, *args)
    assert (narrow.shape, narrow.dtype) == (shape, jnp.bfloat16)


def test_slimmed_tokens_lie_between_the_tokens():
    module = TokenSlimming(4)
    y = module.apply(randomised(module, X), X)
    assert (y <= X.max(1, keepdims=True)).all()
    assert (y >= X.min(1, keepdims=True)).all()


@pytest.mark.parametrize("module", [TokenSlimming(4), ReverseTokenSlimming(9)])
def test_slimming_norms_with_the_epsilon_of_its_code(module):
    """Tokens of deviation 1e-3: 1e-5 beside their variance of 1e-6 is what decides."""
    with jax.enable_x64(True):
        module = module.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        x = 1e-3 * jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 6)))
        variables = nn.unbox(module.init(jax.random.key(0), x))
        _, kept = module.apply(
            variables, x, capture_intermediates=lambda layer, _: layer.name in ("norm", "norm1")
        )
        (normed,) = jax.tree.leaves(kept)
        expected = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(normed, expected, rtol=1e-10)


def test_tokenizers_and_projector_are_their_equations():
    module = RecurrentTokenizer()
    variables = randomised(module, X, TOKENS)
    guide = TOKENS @ variables["params"]["guide"]["kernel"]
    weights = jax.nn.softmax(jnp.einsum("btd,bld->btl", X, guide), axis=1)
    expected = jnp.einsum("btl,btd->bld", weights, X)
    chex.assert_trees_all_close(module.apply(variables, X, TOKENS), expected, atol=1e-5)

    module = TokenTransformer()
    variables = randomised(module, TOKENS)
    key, query, first, second = (
        variables["params"][name]["kernel"] for name in ("key", "query", "fc1", "fc2")
    )
    scores = (TOKENS @ key) @ jnp.swapaxes(TOKENS @ query, 1, 2)
    mixed = TOKENS + jax.nn.softmax(scores) @ TOKENS
    expected = mixed + jax.nn.relu(mixed @ first) @ second
    chex.assert_trees_all_close(module.apply(variables, TOKENS), expected, atol=1e-4)


# ViTs that shed tokens.

VIT = {"img_size": 20, "patch_size": 4, "dim": 8, "depth": 4, "heads": 2, "num_classes": 3}
IMAGES = jax.random.normal(jax.random.key(2), (2, 20, 20, 1))


def vit(reduction, **fields):
    return create_model("deit_tiny_patch16_224", **{**VIT, **fields}, token_reduction=reduction)


@pytest.fixture(scope="module")
def variables():
    return randomised(vit(None), IMAGES)


@pytest.mark.parametrize(
    "reduction", [{"method": "evit", "keep_rate": 1.0}, {"method": "mctf", "remove": 0}]
)
def test_keeping_all_is_the_plain_model_to_the_bit(variables, reduction):
    expected = jax.jit(vit(None).apply)(variables, IMAGES)
    chex.assert_trees_all_equal(jax.jit(vit(reduction).apply)(variables, IMAGES), expected)


@pytest.mark.parametrize(
    "reduction",
    [
        {"method": "evit", "keep_rate": 0.6},
        {"method": "tome", "remove": 4},
        {"method": "mctf", "remove": 4, "blocks": (1, 3)},
    ],
    ids=lambda reduction: reduction["method"],
)
def test_reducing_models_train_with_the_plain_models_parameters(variables, reduction):
    model = vit(reduction, remat=reduction["method"] == "evit")
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), IMAGES))
    chex.assert_trees_all_equal_shapes(shapes["params"], variables["params"])
    traces = 0

    @jax.jit
    def run(params, images):
        nonlocal traces
        traces += 1

        def loss(params):
            logits, state = model.apply({"params": params}, images, mutable=["intermediates"])
            return jnp.sum(jnp.sin(jnp.arange(6.0).reshape(2, 3)) * logits), (logits, state)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (logits, state)), gradients = run(variables["params"], IMAGES)
    run(variables["params"], IMAGES + 1)
    assert traces == 1
    chex.assert_shape(logits, (2, 3))
    blocks = state["intermediates"]
    lengths = [blocks[f"block_{i:02d}"]["output"][0].shape[1] for i in range(4)]
    assert tuple(lengths) == TokenReduction(**reduction).schedule(26, 4)
    assert lengths[-1] < 26
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_merging_equal_tokens_changes_nothing():
    """Patches without positions that are all alike: their sizes make one of them count for all."""
    images = jnp.ones((1, 20, 20, 1))
    fields = {"positions": "none", "depth": 2}
    plain = vit(None, **fields)
    variables = randomised(plain, images)
    expected = jax.jit(plain.apply)(variables, images)
    for method in ("tome", "mctf"):
        model = vit({"method": method, "remove": 5, "blocks": (0, 1)}, **fields)
        chex.assert_trees_all_close(jax.jit(model.apply)(variables, images), expected, rtol=1e-4)


def test_users_mistakes_are_told(variables):
    for fields, pattern in (
        ({"scan_layers": True}, "scan_layers=False"),
        ({"class_token": False, "pool": "avg"}, "reads the class token"),
        ({"mixer": "linear_attention"}, "plain attention"),
        ({"mixer_options": {"attention": {"qk_norm": True}}}, "plain attention"),
    ):
        with pytest.raises(UserError, match=pattern):
            jax.eval_shape(vit({"method": "evit"}, **fields).init, jax.random.key(0), IMAGES)
    with pytest.raises(UserError, match="needs every token"):
        vit({"method": "evit"}).apply(variables, IMAGES, method="features")
    for wrong in ({"method": "drop"}, {"method": "evit", "keep_rate": 0.0}):
        with pytest.raises(UserError, match="token_reduction"):
            TokenReduction(**wrong)


def test_multiply_adds_of_the_published_schedules():
    """DeiT-S by keep rate as the roster counts it, MCTF's r = 16 as its repository prints it.

    Of each method one size: the blocks of a reduced model are all traced.
    """
    example = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

    def gigas(name, **reduction):
        model = create_model(f"deit_{name}_patch16_224", token_reduction=reduction)
        return count_multiply_adds(model, example) / 1e9

    assert gigas("small", method="evit", keep_rate=0.7) == pytest.approx(3.03, abs=0.005)
    assert gigas("tiny", method="mctf") == pytest.approx(0.71, abs=0.01)
