"""Every registered mixer: in both hosts, in other orders, in parts; CASES says what each keeps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixer_cases import CASES
from small_mixers import DIM, GRID, PREFIX, TOKENS, compiled, mixer_and_variables, randomised

from scanmax.errors import UserError
from scanmax.models import create_model, list_mixers, mixer_info
from scanmax.models.mixers import MIXERS, create_mixer
from scanmax.papers import TITLES
from scanmax.testing import compare
from scanmax.testing.model_suite import COMPILER_OPTIONS

CAUSAL = sorted(name for name, case in CASES.items() if case.causal)
# MLPs stand beside mixers, which is their own tests' to show.
VIT = {"img_size": 8, "patch_size": 2, "dim": 8, "heads": 2, "num_classes": 3, "mlp_ratio": 0.0}
PYRAMID = {"num_classes": 3, "mlp_ratio": 0.0}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def pyramid(name, stages):
    """The host of maps with the mixer in each of its stages."""
    fields = {"dims": (8,) * stages, "depths": (1,) * stages, "heads": (2,) * stages, **PYRAMID}
    options = {name: CASES[name].options}
    return create_model("pyramid_tiny", mixer=name, mixer_options=options, **fields)


def vit(name):
    """The isotropic host with the mixer."""
    case = CASES[name]
    own = {"depth": case.depth, "pool": case.pool, "class_token": case.pool == "token"}
    options = {name: case.options}
    return create_model("vit_tiny_patch16_224", mixer=name, mixer_options=options, **VIT, **own)


def test_every_mixer_has_a_case_and_says_what_it_is():
    assert set(CASES) == set(MIXERS) == set(list_mixers())
    for name, case in CASES.items():
        info = mixer_info(name)
        assert info.formula, f"{name} has no formula"
        assert info.cost, f"{name} has no cost"
        assert set(info.papers) <= set(TITLES), name
        assert info.causal == case.causal, name
        assert info.generates == (case.generates is not None), name
        untold = [option for option, meaning in info.option_meanings().items() if not meaning]
        assert set(untold) <= {"dtype", "param_dtype"}, f"{name}: what are {untold}?"


def test_mixers_are_listed_by_what_they_can_do():
    assert list_mixers("mamba*", causal=True) == ["mamba", "mamba2"]
    assert "retention" in list_mixers(generates=True, packs=True)
    assert "soft" in list_mixers(causal=False)
    assert list_mixers("nothing") == []
    assert mixer_info("retention").options["rotary_base"] == 10000.0
    with pytest.raises(UserError, match="did you mean 'retention'"):
        mixer_info("retentoin")


@pytest.mark.parametrize("kind", ["vit", "pyramid"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_both_hosts_train_it(name, kind):
    model, side = (vit(name), 8) if kind == "vit" else (pyramid(name, 1), 16)
    images = np.random.default_rng(2).normal(size=(2, side, side, 1)).astype(np.float32)
    # No image is a batch too.
    none, boxed = jax.eval_shape(model.init_with_output, jax.random.key(0), images[:0])
    assert none.shape == (0, 3)
    variables = randomised(boxed)
    block = "block_00" if kind == "vit" else "stage0_block_00"
    traces = 0

    def loss(own, variables, images):
        nonlocal traces
        traces += 1
        params = {**variables["params"]}
        params[block] = {**params[block], "mixer": own}
        logits = model.apply({**variables, "params": params}, images)
        return jnp.sum(jnp.sin(jnp.arange(6.0).reshape(2, 3)) * logits), logits

    own = variables["params"][block]["mixer"]
    run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=COMPILER_OPTIONS)
    (_, logits), gradients = jax.device_get(run(own, variables, images))
    run(own, variables, images + 1)
    assert traces == 1, "the mixer is traced again for equal shapes"
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        where = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), where
        assert np.abs(gradient).max() > 0, f"no gradient reaches {where}"


@pytest.mark.parametrize("name", sorted(CASES))
def test_four_stages_take_images_of_any_size(name):
    """Down to maps of 1 x 1, odd ones, and ones that no window divides."""
    model = pyramid(name, 4)
    images = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 32, 32, 1), (1, 72, 56, 1))
    ]
    key = jax.random.key(0)
    logits, variables = jax.eval_shape(model.init_with_output, key, images[0])
    assert logits.shape == (1, 3)
    assert jax.eval_shape(model.apply, variables, images[1]).shape == (1, 3)


@pytest.mark.parametrize("name", sorted(CASES))
def test_bfloat16_is_nearly_the_same(name):
    mixer, variables, x = mixer_and_variables(name, prefix_tokens=PREFIX, grid=GRID)
    narrow = mixer.clone(dtype=jnp.bfloat16)
    expected, actual = (
        compiled(lambda v, x, own=own: own.apply(v, x, grid=GRID), variables, x)(variables, x)
        for own in (mixer, narrow)
    )
    assert actual.dtype == jnp.bfloat16
    compare.assert_rms(actual, expected, 5e-2)


@pytest.mark.parametrize("name", sorted(n for n, case in CASES.items() if case.reach))
def test_prefix_and_grid_see_each_other(name):
    mixer, variables, x = mixer_and_variables(name, prefix_tokens=PREFIX, grid=GRID)

    def influence(variables, x):
        first = jax.jacobian(lambda x: mixer.apply(variables, x, grid=GRID)[0].sum(-1))(x)
        return jnp.abs(first[:, 0]).sum(-1)

    influence = compiled(influence, variables, x)(variables, x)
    if CASES[name].reach == "all":
        assert float(influence.min()) > 0
    else:
        assert float(influence[:PREFIX].min()) > 0, "prefix tokens read every token"
        assert float(influence[:, :PREFIX].min()) > 0, "every token reads the prefix"


@pytest.mark.parametrize("name", sorted(n for n, case in CASES.items() if case.order))
def test_order_means_what_it_should(name):
    case = CASES[name]
    if case.order == "permutation":
        mixer, variables, x = mixer_and_variables(name, case.order_options)
        run = compiled(mixer.apply, variables, x)
        order = np.random.default_rng(0).permutation(TOKENS)
        chex.assert_trees_all_close(
            run(variables, x[:, order]), run(variables, x)[:, order], rtol=1e-4, atol=1e-4
        )
        return
    side = case.shift * (2 * case.margin // case.shift + 4)
    mixer, variables, x = mixer_and_variables(name, case.order_options, grid=(side, side))
    run = compiled(lambda v, x: mixer.apply(v, x, grid=(side, side)), variables, x)
    maps = x.reshape(2, side, side, DIM)
    moved = jnp.roll(maps, (case.shift, -case.shift), (1, 2))
    inner = slice(case.margin + case.shift, side - case.margin - case.shift)
    expected, actual = (run(variables, m.reshape(x.shape)).reshape(m.shape) for m in (maps, moved))
    expected = jnp.roll(expected, (case.shift, -case.shift), (1, 2))
    actual, expected = actual[:, inner, inner], expected[:, inner, inner]
    noise = 1e-4 * max(1.0, float(jnp.abs(expected).max()))
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=noise)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_mixers_read_the_past_only(name):
    mixer, variables, x = mixer_and_variables(name, is_causal=True)
    run = compiled(mixer.apply, variables, x)
    before = run(variables, x)
    changed = run(variables, x.at[:, 7:].add(1.0))
    chex.assert_trees_all_close(changed[:, :7], before[:, :7], atol=1e-5)
    assert float(jnp.abs(changed[:, 7:] - before[:, 7:]).min(axis=(0, 2)).max()) > 0


@pytest.mark.parametrize("name", sorted(set(CASES) - set(CAUSAL)))
def test_others_say_that_they_have_no_causal_form(name):
    with pytest.raises(ValueError, match="no causal form"):
        mixer_and_variables(name, is_causal=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in CAUSAL for options in CASES[name].generates or ()],
)
def test_parts_and_single_tokens_give_the_whole(name, options):
    mixer, variables, x = mixer_and_variables(name, options, is_causal=True)
    whole = jax.jit(lambda x: mixer.apply(variables, x))(x)
    run = jax.jit(lambda x, state: mixer.apply(variables, x, state=state))
    state, outputs = mixer.init_state(2, TOKENS, DIM), []
    for part in (x[:, :5], x[:, 5:6], x[:, 6:7], x[:, 7:]):
        y, state = run(part, state)
        outputs.append(y)
    chex.assert_trees_all_close(jnp.concatenate(outputs, 1), whole, rtol=1e-4, atol=1e-4)


def test_a_users_mistake_is_told():
    with pytest.raises(UserError, match="unknown mixer 'atention'; did you mean 'attention'"):
        create_mixer("atention", heads=1)
    with pytest.raises(UserError, match="no field 'kv_head'; did you mean 'kv_heads'"):
        create_mixer("attention", heads=1, options={"kv_head": 1})
    x = jnp.zeros((1, 4, 6))
    with pytest.raises(ValueError, match="heads=4 do not divide 6"):
        create_mixer("attention", heads=4).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="expected 2 \\* 3 tokens"):
        create_mixer("nc_ssd", heads=2).init(jax.random.key(0), x, grid=(2, 3))
    with pytest.raises(NotImplementedError, match="cannot generate"):
        create_mixer("nc_ssd", heads=2).init_state(1, 2, 4)
