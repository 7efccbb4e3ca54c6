"""Language models of every causal mixer, mixed by tuple: prompts, single tokens, states."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixer_cases import CASES
from small_mixers import compiled, randomised

import scanmax
from scanmax.models.mixers import MIXERS, create_mixer
from scanmax.testing.model_suite import COMPILER_OPTIONS

NAMES = sorted(name for name, case in CASES.items() if case.causal and case.generates is not None)
# What they keep of the past has one size, whatever its length.
CONSTANT = (
    "delta",
    "gated_delta",
    "gla",
    "linear_attention",
    "mamba",
    "mamba2",
    "performer",
    "retention",
    "selective_channel",
    "ssd",
    "wkv",
    "wkv6",
)
# Those that keep sequences apart which share a row; the others say so.
PACKED = (
    "attention",
    "base_conv",
    "ckconv",
    "delta",
    "dynamicconv",
    "flexconv",
    "gated_delta",
    "gla",
    "hyena",
    "lightconv",
    "linear_attention",
    "long_conv",
    "mamba",
    "mamba2",
    "mla",
    "retention",
    "selective_channel",
    "sgconv",
    "smpconv",
    "ssd",
    "wkv",
    "wkv6",
)
PROMPT, LENGTH = 5, 7
GROUP = 6


def build(names):
    model = scanmax.create_model(
        "lm_tiny",
        vocab_size=11,
        dim=8,
        heads=2,
        depth=len(names),
        mixer=tuple(names),
        mlp_ratio=0.0,
        mixer_options={name: CASES[name].options for name in names},
    )
    tokens = jnp.asarray(np.random.default_rng(0).integers(11, size=(2, LENGTH)), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
    rng = np.random.default_rng(1)

    def fill(leaf):
        return jnp.asarray(0.3 * rng.normal(size=leaf.shape) + 0.1, leaf.dtype)

    kept = {name: shapes[name] for name in ("params", "batch_stats") if name in shapes}
    variables = jax.tree.map(fill, kept)
    # norms, in what is no parameter
    statistics = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.5, variables.pop("batch_stats", {}))
    return model, {**variables, "batch_stats": statistics}, tokens


def fast(function):
    return jax.jit(function, compiler_options=COMPILER_OPTIONS)


@pytest.mark.parametrize("first", range(0, len(NAMES), GROUP))
def test_prefill_then_steps_are_the_whole(first):
    names = NAMES[first : first + GROUP]
    model, variables, tokens = build(names)
    whole = fast(model.apply)(variables, tokens)
    prefill = fast(lambda v, x: model.apply(v, x, LENGTH, method="prefill"))
    logits, state = prefill(variables, tokens[:, :PROMPT])
    found = [logits]
    step = fast(lambda v, state, x: model.apply(v, state, x, method="step"))
    for place in range(PROMPT, LENGTH):
        logits, state = step(variables, state, tokens[:, place])
        found.append(logits[:, None])
    error = jnp.abs(jnp.concatenate(found, 1) - whole).max() / jnp.abs(whole).max()
    assert float(error) < 1e-4, names


UNPACKED = tuple(name for name in NAMES if name not in PACKED)


@pytest.mark.parametrize(
    "names", [PACKED[:7], PACKED[7:13], PACKED[13:], UNPACKED[:6], UNPACKED[6:]]
)
def test_prompts_of_unequal_length_are_generated_together(names):
    """Each of their tokens is the best of a whole pass over its own row, from its first place."""
    model, variables, _ = build(names)
    assert model.packs == (names[0] in PACKED)
    prompts, new = [[3, 1, 4, 1, 5, 9], [2], [6, 5, 3]], 4
    generate = scanmax.models.generation.generate
    found = generate(model, variables, prompts, max_new_tokens=new, temperature=0)
    rows = np.stack([np.pad(row, (0, 10 - len(row))) for row in found])
    logits = np.asarray(fast(model.apply)(variables, rows), np.float64)
    for prompt, row, own in zip(prompts, rows, logits):
        own = own[len(prompt) - 1 : len(prompt) - 1 + new]
        drawn = row[len(prompt) : len(prompt) + new]
        lost = own.max(-1) - np.take_along_axis(own, drawn[:, None], -1)[:, 0]
        assert lost.max() < 1e-4 * np.abs(own).max(), (prompt, drawn)


@pytest.mark.parametrize("first", range(0, len(PACKED), GROUP))
def test_a_packed_prompt_is_read_as_it_is_without_a_state(first):
    """The logits behind it, and those behind one token more; a choice of tokens tells less."""
    model, variables, _ = build(PACKED[first : first + GROUP])
    tokens = jnp.asarray([[0, 0, 0, 0, 0, 2, 1], [3, 4, 1, 6, 5, 3, 2]])
    segments = jnp.asarray([[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]])

    @fast
    def both(variables):
        whole = model.apply(variables, tokens, segment_ids=segments)
        prompt, state = model.apply(
            variables, tokens[:, :-1], 10, True, segments[:, :-1], method="prefill"
        )
        new, _ = model.apply(variables, state, tokens[:, -1], method="step")
        return whole[:, -2:], jnp.stack([prompt, new], 1)

    whole, read = both(variables)
    np.testing.assert_allclose(read, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONSTANT)
def test_what_recurrent_mixers_keep_has_one_size(name):
    model, _, _ = build([name])
    short, long = (
        jax.eval_shape(lambda length=length: model.init_state(2, length)) for length in (8, 4096)
    )
    assert jax.tree.map(lambda leaf: leaf.shape, short) == jax.tree.map(
        lambda leaf: leaf.shape, long
    )


@pytest.mark.parametrize("first", range(0, len(PACKED), GROUP))
def test_packed_sequences_do_not_leak(first):
    names = PACKED[first : first + GROUP]
    model, variables, tokens = build(names)
    segments = jnp.asarray([[7, 7, 7, 2, 2, 2, 2], [0, 0, 0, 1, 1, 1, 1]])
    run = fast(lambda v, x, ids: model.apply(v, x, segment_ids=ids))
    packed = run(variables, tokens, segments)
    for part in (slice(0, 3), slice(3, 7)):
        alone = fast(model.apply)(variables, tokens[:, part])
        error = jnp.abs(packed[:, part] - alone).max() / jnp.abs(packed).max()
        assert float(error) < 1e-5, (names, part)
    changed = run(variables, tokens.at[0, :3].add(1) % 11, segments)
    np.testing.assert_array_equal(changed[0, 3:], packed[0, 3:])
    assert float(jnp.abs(changed[0, :3] - packed[0, :3]).max()) > 1e-4


@pytest.mark.parametrize("name", PACKED)
def test_what_breaks_in_a_packed_sequence_stays_there(name):
    others = np.r_[0:4, 8:12]
    segments = jnp.asarray(np.repeat([3, 0, 3], 4)[None])
    mixer = create_mixer(name, heads=2, is_causal=True, options=CASES[name].options)
    x = jax.random.normal(jax.random.key(0), (1, 12, 8))
    shapes = jax.eval_shape(lambda key: mixer.init(key, x), jax.random.key(1))
    variables = randomised(shapes)

    def run(x):
        def loss(x):
            y = mixer.apply(variables, x, segment_ids=segments)
            return jnp.sin(y[:, others]).sum(), y

        gradient, y = jax.grad(loss, has_aux=True)(x)
        return (y[:, others], gradient[:, others]), y[:, 4:8]

    run = compiled(run, x)
    expected, _ = run(x)
    for broken in (jnp.nan, 1e30):
        for place in (5, slice(4, 8)):
            actual, own = run(x.at[:, place].set(broken))
            jax.tree.map(np.testing.assert_array_equal, actual, expected)
            assert np.isnan(own).any() or broken == 1e30, "the sequence itself does not tell"


def test_packed_layers_scan_and_rematerialise():
    model, variables, tokens = build(("mamba2", "mamba2"))
    segments = jnp.asarray([[0, 0, 0, 1, 1, 1, 1]] * 2)
    expected = model.apply(variables, tokens, segment_ids=segments)
    stacked = scanmax.models.blocks.stack_blocks(nn.unbox(variables["params"]))
    other = model.clone(scan_layers=True, remat=True)
    actual = fast(lambda v, x, ids: other.apply(v, x, segment_ids=ids))(
        {"params": stacked}, tokens, segments
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(name for name, case in CASES.items() if case.causal))
def test_mixers_that_mix_what_is_packed_refuse_it(name):
    assert MIXERS[name].packs == (name in PACKED)
    if name in PACKED:
        return
    model, variables, tokens = build([name])
    with pytest.raises(ValueError, match="does not keep packed sequences apart; those that do are"):
        jax.eval_shape(lambda v, x: model.apply(v, x, segment_ids=x), variables, tokens)


def test_five_of_one_mixer_to_one_of_attention():
    model, variables, tokens = build(("mamba2",) * 5 + ("attention",))
    whole = fast(model.apply)(variables, tokens)
    assert whole.shape == (2, LENGTH, 11)
    changed = fast(model.apply)(variables, tokens.at[:, 5].add(1) % 11)
    np.testing.assert_allclose(changed[:, :5], whole[:, :5], atol=1e-5)
    assert float(jnp.abs(changed[:, 6] - whole[:, 6]).max()) > 1e-4
    generated = scanmax.models.generation.generate(
        model, variables, tokens, max_new_tokens=2, temperature=0
    )
    assert generated.shape == (2, LENGTH + 2)
