"""Hosts: any mixer anywhere, prefix tokens, positions, heads, generation, memory."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models import blocks, create_model
from scanmax.models.blocks import Block, stack_blocks, unstack_blocks

VIT = {"img_size": 8, "patch_size": 2, "dim": 8, "depth": 3, "heads": 2, "num_classes": 3}
LM = {"vocab_size": 11, "dim": 8, "depth": 3, "heads": 2}
HYBRID = ("ssd", "nc_ssd", "attention")


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def images(*shape):
    return jax.random.normal(jax.random.key(7), shape)


def initialised(model, inputs, **keywords):
    """Random parameters, none of them zero or small; nothing is compiled."""
    boxed = jax.eval_shape(lambda key: model.init(key, inputs, **keywords), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape) + 0.1, leaf.dtype),
        nn.unbox(boxed),
    )


def shapes(model, inputs, **keywords):
    return jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), inputs, **keywords)[0])


def test_a_hybrid_is_a_tuple_of_names():
    model = create_model("vit_tiny_patch16_224", **VIT, mixer=HYBRID)
    variables = initialised(model, images(2, 8, 8, 1))
    logits, state = jax.jit(lambda v, x: model.apply(v, x, mutable=["intermediates"]))(
        variables, images(2, 8, 8, 1)
    )
    chex.assert_tree_all_finite(logits)
    for index, own in enumerate(("A_log", "A_log", "qkv")):
        assert own in variables["params"][f"block_{index:02d}"]["mixer"]
        block = state["intermediates"][f"block_{index:02d}"]
        chex.assert_shape(block["output"][0], (2, 17, 8))
        chex.assert_shape(block["mixer"]["attention"][0], (2, 2, 17, 17))
    model = create_model("pyramid_tiny", mixer=("ssd", "nc_ssd", "linear_attention", "attention"))
    assert shapes(model, jnp.zeros((1, 64, 64, 3))).shape == (1, 1000)


def test_what_does_not_fit_is_told():
    inputs = jnp.zeros((1, 8, 8, 1))
    wrong = {
        "expected one or 3": {"mixer": HYBRID[:2]},
        "equal blocks": {"mixer": HYBRID, "scan_layers": True},
        "unknown mixer 'atention'": {"mixer": "atention"},
        "mixer_options: unknown mixer 'windw'": {"mixer_options": {"windw": {}}},
        "unknown remat policy 'dots'": {"remat": "dots"},
        "unknown norm": {"norm": "batch"},
        "pool='mean'": {"pool": "mean"},
        "needs class_token": {"class_token": False},
        "distilled=True reads": {"distilled": True, "pool": "avg"},
        "pool='token', fc_norm=False": {"distilled": True, "fc_norm": True},
        "distilled=True has no registers": {"distilled": True, "reg_tokens": 2},
        "positions='rope'": {"positions": "rope"},
    }
    for message, fields in wrong.items():
        with pytest.raises(UserError, match=message):
            shapes(create_model("vit_tiny_patch16_224", **{**VIT, **fields}), inputs)
    with pytest.raises(UserError, match="as many stages"):
        shapes(create_model("pyramid_tiny", depths=(1, 1)), inputs)
    with pytest.raises(ValueError, match="no causal form"):
        shapes(create_model("lm_tiny", mixer="nc_ssd"), jnp.zeros((1, 4), jnp.int32))


def test_distillation_gives_both_heads_in_training_and_their_mean_in_evaluation():
    model = create_model("deit_tiny_distilled_patch16_224", **VIT)
    variables = initialised(model, images(2, 8, 8, 1))
    run = jax.jit(model.apply, static_argnames="train")
    label, teacher = run(variables, images(2, 8, 8, 1), train=True)
    chex.assert_trees_all_close(
        run(variables, images(2, 8, 8, 1)), (label + teacher) / 2, rtol=1e-5
    )
    assert float(jnp.abs(label - teacher).max()) > 1e-3


def test_positions_fit_other_sizes_and_match_the_table_at_their_own():
    model = create_model("vit_tiny_patch16_224", **VIT)
    variables = initialised(model, images(1, 8, 8, 1))
    wide = images(1, 8, 16, 1)
    # A model made for the wide image, whose table is the resampled one, says the same.
    table = variables["params"]["pos_embed"]
    resampled = ops.resample_positions(table, (4, 4), (4, 8), prefix_tokens=1)
    other = {"params": {**variables["params"], "pos_embed": resampled}}
    expected = model.clone(img_size=(8, 16)).apply(other, wide)
    chex.assert_trees_all_close(model.apply(variables, wide), expected, rtol=1e-5)


def test_pooling_without_a_class_token():
    for positions in ("learned", "sincos", "fourier", "none"):
        fields = {"class_token": False, "pool": "avg", "positions": positions, "num_classes": 0}
        model = create_model("vit_tiny_patch16_224", **{**VIT, **fields})
        variables = jax.eval_shape(model.init, jax.random.key(0), images(2, 8, 8, 1))
        assert "cls_token" not in variables["params"]
        assert ("pos_embed" in variables["params"]) == (positions == "learned")
        assert shapes(model, images(2, 8, 8, 1)).shape == (2, 8)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_the_last_norm_stands_before_or_behind_the_pooling(pool):
    """Registers in front of the patches are pooled in neither order."""
    fields = {**VIT, "pool": pool, "reg_tokens": 2, "num_classes": 0}
    model = create_model("vit_tiny_patch16_224", **fields)
    before = initialised(model.clone(fc_norm=False), images(2, 8, 8, 1))
    assert "fc_norm" not in before["params"]
    kept = {name: value for name, value in before["params"].items() if name != "norm"}
    behind = {"params": {**kept, "fc_norm": before["params"]["norm"]}}

    def run(fc_norm, variables):
        model_ = model.clone(fc_norm=fc_norm)
        return model_.apply(variables, images(2, 8, 8, 1), mutable=["intermediates"])

    y, state = run(False, before)
    x = state["intermediates"]["block_02"]["output"][0]
    chex.assert_shape(x, (2, 1 + 2 + 16, 8))
    norm = nn.unbox(before["params"]["norm"])

    def normed(x):
        return ops.layer_norm(x, norm["scale"], norm["bias"], epsilon=1e-6)

    def pooled(x):
        return x[:, 3:].mean(1) if pool == "avg" else x[:, 0]

    chex.assert_trees_all_close(y, pooled(normed(x)), rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(run(True, behind)[0], normed(pooled(x)), rtol=1e-4, atol=1e-6)
    # None is timm's rule.
    own = jax.eval_shape(model.init, jax.random.key(0), images(2, 8, 8, 1))["params"]
    assert ("fc_norm" in own) == (pool == "avg")
    assert ("norm" in own) == (pool == "token")


def test_a_position_table_of_the_patches_alone():
    fields = {**VIT, "reg_tokens": 2}
    model = create_model("vit_tiny_patch16_224", **fields)
    variables = nn.unbox(initialised(model, images(1, 8, 8, 1)))["params"]
    table = variables["pos_embed"]
    chex.assert_shape(table, (1 + 2 + 16, 8))
    expected = model.apply(
        {"params": {**variables, "pos_embed": table.at[:3].set(0)}}, images(1, 8, 8, 1)
    )
    bare = {"params": {**variables, "pos_embed": table[3:]}}
    actual = model.clone(no_embed_class=True).apply(bare, images(1, 8, 8, 1))
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)


def test_fourier_positions_fit_any_grid():
    model = create_model("vit_tiny_patch16_224", **{**VIT, "positions": "fourier"})
    variables = nn.unbox(initialised(model, images(1, 8, 8, 1)))
    kernel = variables["params"]["pos_projection"]["kernel"]
    assert kernel.shape == (64, 8)
    without = {"params": {**variables["params"], "pos_projection": {"kernel": 0 * kernel}}}
    without["params"]["pos_projection"]["bias"] = jnp.zeros(8)
    wide = images(1, 8, 16, 1)
    y, plain = (model.apply(v, wide) for v in (variables, without))
    assert float(jnp.abs(y - plain).max()) > 1e-6
    bare = {"params": {k: v for k, v in without["params"].items() if k != "pos_projection"}}
    expected = model.clone(positions="none").apply(bare, wide)
    chex.assert_trees_all_close(plain, expected, rtol=1e-5)


@pytest.mark.parametrize("mixer", [("attention", "ssd", "linear_attention"), "mamba2"])
def test_prefill_and_steps_give_the_logits_of_the_whole(mixer):
    model = create_model("lm_tiny", **LM, mixer=mixer)
    tokens = jax.random.randint(jax.random.key(1), (2, 7), 0, 11)
    variables = initialised(model, tokens)
    whole = jax.jit(model.apply)(variables, tokens)
    models = [(model, variables)]
    if isinstance(mixer, str):
        stacked = {"params": stack_blocks(variables["params"])}
        models.append((model.clone(scan_layers=True), stacked))
    for host, own in models:
        logits, state = host.apply(own, tokens[:, :4], 7, method="prefill")
        chex.assert_trees_all_close(logits, whole[:, :4], rtol=1e-4, atol=1e-4)
        last, _ = host.apply(own, tokens[:, :4], 7, last_only=True, method="prefill")
        chex.assert_trees_all_close(last, whole[:, 3], rtol=1e-4, atol=1e-4)
        step = jax.jit(
            lambda own, state, token, host=host: host.apply(own, state, token, method="step")
        )
        for place in range(4, 7):
            logits, state = step(own, state, tokens[:, place])
            chex.assert_trees_all_close(logits, whole[:, place], rtol=1e-4, atol=1e-4)


def test_the_residual_stream_stays_wide():
    model = create_model("lm_tiny", **LM, dtype=jnp.bfloat16)
    tokens = jnp.zeros((1, 4), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    logits, state = jax.eval_shape(
        lambda v: model.apply(v, tokens, mutable=["intermediates"]), variables
    )
    assert logits.dtype == jnp.bfloat16
    assert state["intermediates"]["block_02"]["output"][0].dtype == jnp.float32
    untied = create_model("lm_tiny", **LM, tied=False)
    assert "head" in jax.eval_shape(untied.init, jax.random.key(0), tokens)["params"]


def test_scanned_blocks_draw_their_own_masks():
    # Half of all branches drop: equal masks in every layer would leave far fewer outcomes.
    fields = {**VIT, "depth": 6, "drop_path_rate": 0.5, "num_classes": 0}
    model = create_model("vit_tiny_patch16_224", **fields, scan_layers=True)
    inputs = jnp.broadcast_to(images(1, 8, 8, 1), (64, 8, 8, 1))
    variables = initialised(model, inputs[:1])
    pooled = jax.jit(
        lambda v: model.apply(v, inputs, train=True, rngs={"dropout": jax.random.key(0)})
    )(variables)
    assert len({tuple(row) for row in pooled.round(3).tolist()}) > 16


@pytest.mark.parametrize(("mixer", "most"), [("attention", 0.75), ("ssd", 0.35)])
def test_a_loop_on_a_tpu_keeps_what_is_dear(mixer, most, monkeypatch):
    fields = {**VIT, "dim": 32, "mixer": mixer, "scan_layers": True, "drop_path_rate": 0.2}
    inputs = images(2, 8, 8, 1)
    model = create_model("vit_tiny_patch16_224", **fields)
    variables = initialised(model, inputs)

    def loss(variables, dtype):
        own = {"train": True, "rngs": {"dropout": jax.random.key(0)}}
        with jax.numpy_dtype_promotion("standard"):
            return model.clone(dtype=dtype).apply(variables, inputs, **own).astype("float32").sum()

    def gradient(variables):
        return jax.jit(jax.grad(lambda v: loss(v, jnp.float32)))(variables)

    def kept_bytes():
        leaves = []
        jax.eval_shape(
            lambda v: leaves.extend(
                jax.tree.leaves(jax.vjp(lambda v: loss(v, jnp.bfloat16), v)[1])
            ),
            variables,
        )
        # of each layer and image
        stacked = [leaf for leaf in leaves if leaf.shape[:2] == (3, 2)]
        return sum(leaf.size * leaf.dtype.itemsize for leaf in stacked)

    expected, before = gradient(variables), kept_bytes()
    monkeypatch.setattr(blocks, "platform", lambda: "tpu")
    chex.assert_trees_all_close(gradient(variables), expected, rtol=1e-5, atol=1e-5)
    assert kept_bytes() < most * before


def test_blocks_stack_and_come_back():
    params = {"head": jnp.ones(2), "block_00": {"a": jnp.zeros(3)}, "block_01": {"a": jnp.ones(3)}}
    stacked = stack_blocks(params)
    assert set(stacked) == {"head", "blocks"}
    chex.assert_trees_all_equal(unstack_blocks(stacked), params)


def test_scanned_parameters_carry_the_layers_axis():
    model = create_model("vit_tiny_patch16_224", **VIT, scan_layers=True, remat=True)
    params = jax.eval_shape(model.init, jax.random.key(0), images(1, 8, 8, 1))["params"]
    assert params["blocks"]["mlp"]["fc1"]["kernel"].names == ("layers", "embed", "mlp")


def test_maps_of_a_quarter_are_the_normalised_blocks():
    model = create_model("vit_tiny_patch16_224", **{**VIT, "depth": 4})
    inputs = images(1, 8, 8, 1)
    variables = initialised(model, inputs)

    @jax.jit
    def run(variables):
        maps = model.apply(variables, inputs, method="features")
        _, state = model.apply(variables, inputs, mutable=["intermediates"])
        return maps, state["intermediates"]

    maps, sown = run(variables)
    norm = variables["params"]["norm"]
    for index, entry in enumerate(maps):
        tokens = sown[f"block_{index:02d}"]["output"][0][:, 1:]
        expected = ops.layer_norm(tokens, norm["scale"], norm["bias"])
        chex.assert_trees_all_close(entry, expected.reshape(1, 4, 4, 8), atol=1e-5)


def test_position_convolutions_leave_prefix_tokens_alone():
    fields = {"mixer": "attention", "heads": 2, "mlp_hidden": 0, "prefix_tokens": 2}
    x = images(1, 2 + 6, 4)
    block = Block(**fields, position_conv=3)
    params = initialised(block, x, grid=(2, 3))["params"]
    conv = params.pop("position_conv1")
    maps = ops.depthwise_conv2d(x[:, 2:].reshape(1, 2, 3, 4), conv["kernel"])
    moved = (maps + conv["bias"][None, None, None]).reshape(1, 6, 4)
    expected = Block(**fields).apply({"params": params}, x.at[:, 2:].add(moved), grid=(2, 3))
    params["position_conv1"] = conv
    chex.assert_trees_all_close(
        block.apply({"params": params}, x, grid=(2, 3)), expected, atol=1e-6
    )
