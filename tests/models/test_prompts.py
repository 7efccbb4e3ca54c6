"""Prompts: tokens of each block's own among those of a host, and weights without them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scanmax
from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.blocks import Block

VIT = {"img_size": 8, "patch_size": 4, "dim": 8, "depth": 3, "heads": 2, "num_classes": 3}
LM = {"vocab_size": 11, "dim": 8, "depth": 3, "heads": 2}
PROMPTS = {"prompts": 2, "prompt_depth": 2}


def initialised(model, inputs):
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs))
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)  # noqa: E731
    return jax.tree.map(draw, nn.unbox(boxed))


def by_hand(model, params, tokens, place):
    """The blocks one by one: each reads its own prompts, the last what became of them."""
    count = len(params["prompts"])
    prompts = params["prompts"]
    for index, fields in enumerate(model.block_fields()):
        own = dict(params[f"block_{index:02d}"])
        assert ("prompts" in own) == (index == 1)
        prompts = jnp.broadcast_to(own.pop("prompts", prompts), (len(tokens), count, 8))
        x = jnp.concatenate([tokens[:, :place], prompts, tokens[:, place:]], axis=1)
        x = jax.jit(Block(**fields).apply)({"params": own}, x)
        prompts = x[:, place : place + count]
        tokens = jnp.concatenate([x[:, :place], x[:, place + count :]], axis=1)
    return tokens


def normed(x):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / jnp.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)


def test_prompts_of_images_stand_behind_the_prefix_and_are_left_behind():
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    model = create_model("vit_tiny_patch16_224", **VIT, **PROMPTS)
    variables = initialised(model, images)
    params = variables["params"]
    logits, state = jax.jit(lambda v: model.apply(v, images, mutable=["intermediates"]))(variables)
    tokens = state["intermediates"]["stem"][0]
    assert tokens.shape == (2, 7, 8)
    np.testing.assert_allclose(tokens[0, 1:3], params["prompts"], rtol=1e-6)
    tokens = by_hand(model, params, tokens[:, jnp.asarray([0, 3, 4, 5, 6])], 1)
    features = normed(tokens) * params["norm"]["scale"] + params["norm"]["bias"]
    head = params["head"]
    expected = features[:, 0] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    maps = jax.eval_shape(lambda: model.apply(variables, images, method="features"))
    assert maps[-1].shape == (2, 2, 2, 8)


def test_prompts_of_texts_stand_ahead_and_are_not_answered():
    tokens = jnp.asarray([[1, 2, 3, 4], [5, 6, 7, 0]])
    model = create_model("lm_tiny", **LM, **PROMPTS)
    variables = initialised(model, tokens)
    params = variables["params"]
    hidden = jax.jit(lambda v: model.apply(v, tokens, method="features"))(variables)[0]
    found = by_hand(model, params, params["embed"]["embedding"][tokens], 0)
    found = found / jnp.sqrt((found * found).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(hidden, found * params["norm"]["scale"], rtol=1e-4, atol=1e-5)
    for given, method in (({"segment_ids": tokens}, None), ({}, "prefill")):
        with pytest.raises(UserError, match="not of packed or generated ones"):
            jax.eval_shape(lambda g=given, m=method: model.apply(variables, tokens, **g, method=m))


def test_weights_without_prompts_take_them_and_leave_them():
    images = jnp.ones((1, 8, 8, 1))
    plain, other = (create_model("vit_tiny_patch16_224", **VIT, **own) for own in ({}, PROMPTS))
    variables = initialised(plain, images)
    with pytest.raises(UserError, match=r"adapt=\['prompts'\] takes it"):
        scanmax.load_weights(other, variables, (8, 8, 1))
    found = nn.unbox(scanmax.load_weights(other, variables, (8, 8, 1), adapt="prompts"))
    own = {"prompts": found["params"]["prompts"]}
    own |= {"block_01": found["params"]["block_01"]["prompts"]}
    assert {name: value.shape for name, value in own.items()} == dict.fromkeys(own, (2, 8))
    again = nn.unbox(scanmax.load_weights(plain, found, (8, 8, 1), adapt="prompts"))
    jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_depth": 4}, "prompt_depth=4 must be from 1 to the 3 blocks"),
        ({"parallel": 2}, "prompts stand between plain blocks, and these are ParallelBlock"),
        ({"token_reduction": {"method": "tome"}}, "prompts stand between plain blocks"),
        ({"scan_layers": True}, "scan_layers=True needs equal blocks"),
    ],
)
def test_mistakes_are_one_line(fields, message):
    model = create_model("vit_tiny_patch16_224", **VIT, **{**PROMPTS, **fields})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 1)))
