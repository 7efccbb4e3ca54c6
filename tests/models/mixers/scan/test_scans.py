"""Scan mixers of images: what they sow is what they apply; directions, prefix, parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.models.mixers import create_mixer
from scanmax.models.mixers.scan.cross import (
    from_sequences,
    merge_matrices,
    sequence_places,
    to_sequences,
)
from scanmax.models.mixers.scan.selective import SelectiveSsm

GRID, PREFIX, DIM = (2, 3), 2, 4
TOKENS = PREFIX + GRID[0] * GRID[1]
NAMES = ("rows", "columns", "rows_reversed", "columns_reversed")


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def randomised(variables):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), leaf.dtype),
        nn.unbox(variables),
    )


def mixer_and_variables(name, heads=2, **options):
    mixer = create_mixer(name, heads=heads, prefix_tokens=PREFIX, options=options)
    x = jax.random.normal(jax.random.key(0), (1, TOKENS, DIM))
    boxed = jax.eval_shape(lambda key: mixer.init(key, x, grid=GRID), jax.random.key(1))
    return mixer, randomised({"params": boxed["params"]}), x


def test_sequences_and_places_are_of_one_order():
    x = jax.random.normal(jax.random.key(0), (1, TOKENS, 1))
    sequences = to_sequences(x, GRID, PREFIX, NAMES)
    places = sequence_places(GRID, PREFIX, NAMES)
    for sequence, place in zip(sequences, places):
        np.testing.assert_array_equal(sequence[:, place], x)
    back = from_sequences(sequences, GRID, PREFIX, NAMES)
    np.testing.assert_allclose(back, 4 * x, rtol=1e-6)
    # Forward and backward at a prefix token: it comes first, and last.
    assert places[0, 0] == 0
    assert places[2, 0] == TOKENS - 1


def test_merged_matrices_apply_what_the_directions_do():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, TOKENS, 3)), jnp.float32)
    matrices = jnp.asarray(rng.normal(size=(4, 1, 1, TOKENS, TOKENS)), jnp.float32)
    sequences = to_sequences(x, GRID, PREFIX, NAMES)
    y = from_sequences(jnp.matmul(matrices[:, :, 0], sequences), GRID, PREFIX, NAMES)
    merged = merge_matrices(matrices, sequence_places(GRID, PREFIX, NAMES))
    np.testing.assert_allclose(jnp.matmul(merged[:, 0], x), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mamba_four_way", {"d_state": 2}),
        ("mamba_four_way", {"d_state": 2, "directions": 2, "shared": True}),
    ],
)
def test_the_sown_matrix_is_what_the_scans_apply(name, options):
    # One head per channel, and a filter that lets everything pass.
    mixer, variables, x = mixer_and_variables(name, heads=8, **options)
    params = variables["params"]
    params["conv_kernel"] = jnp.zeros((3, 3, 1, 8)).at[1, 1].set(1.0)
    params["conv_bias"] = jnp.zeros(8)

    def run(variables, x):
        return mixer.apply(
            variables, x, grid=GRID, mutable=["intermediates"], capture_intermediates=True
        )[1]["intermediates"]

    sown = jax.jit(run)(variables, x)
    (matrix,) = sown["attention"]
    u = jax.nn.silu(sown["in_proj"]["__call__"][0][..., :8])
    scanned = sown["ssm"]["__call__"][0].reshape(-1, 1, TOKENS, 8)
    names = NAMES if len(scanned) == 4 else NAMES[::2]
    merged = from_sequences(scanned, GRID, PREFIX, names)
    skip = params["ssm"]["D"].reshape(-1, 8).sum(0) * (len(names) if "shared" in options else 1)
    applied = jnp.einsum("bcij,bjc->bic", matrix, u) + u * skip[None, None]
    np.testing.assert_allclose(applied, merged, rtol=1e-4, atol=1e-5)


def test_the_matrix_of_a_head_is_the_mean_of_its_channels():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    module = SelectiveSsm(heads=4, d_state=3)
    variables = randomised(module.init(jax.random.key(1), x))
    matrices = module.apply(variables, x, method="matrix")
    y = jnp.einsum("bcij,bjc->bic", matrices, x) + x * variables["params"]["D"][None, None]
    np.testing.assert_allclose(y, module.apply(variables, x), rtol=1e-4, atol=1e-5)
    two = module.clone(heads=2).apply(variables, x, method="matrix")
    np.testing.assert_allclose(two, matrices.reshape(2, 2, 2, 5, 5).mean(2), rtol=1e-5, atol=1e-6)


def test_four_ways_of_one_rate_read_everything_twice():
    """Without decay, and B and C that are constant, a direction and its reverse give a full sum."""
    dt = jnp.ones((4, TOKENS, 1))
    B = jnp.ones((4, TOKENS, 1, 1))
    matrices = ops.ssd_matrix(dt, -jnp.zeros(1), B, B)[:, None]
    merged = merge_matrices(matrices, sequence_places(GRID, PREFIX, NAMES))[0, 0]
    np.testing.assert_array_equal(merged, 2 * np.ones((TOKENS, TOKENS)) + 2 * np.eye(TOKENS))


def test_the_channel_scan_is_a_loop_over_the_channels_of_each_token():
    mixer = create_mixer("selective_channel", heads=1, options={"d_state": 2, "expand": 1.0})
    x = jax.random.normal(jax.random.key(0), (1, 3, DIM))
    params = randomised(mixer.init(jax.random.key(1), x))["params"]
    projection = params["in_proj"]
    both = x @ projection["kernel"] + projection["bias"][None, None]
    u, gate = jnp.split(both, 2, -1)
    total = np.zeros((3, DIM))
    for direction in range(2):
        own = jax.tree.map(lambda leaf, r=direction: np.asarray(leaf[r]), params["ssm"])
        taps = np.asarray(params["conv_kernel"][direction, :, 0])
        bias = np.asarray(params["conv_bias"][direction, 0])
        for token in range(3):
            steps = np.asarray(u[0, token])[:: 1 - 2 * direction]
            padded = np.concatenate([np.zeros(len(taps) - 1), steps])
            steps = np.asarray(
                [jax.nn.silu(padded[t : t + len(taps)] @ taps + bias) for t in range(DIM)]
            )
            state, outputs = np.zeros(2), []
            for value in steps:
                mixed = value * own["x_proj"]["kernel"][0]
                dt = mixed[0] * own["dt_proj"]["kernel"][0, 0] + own["dt_bias"][0]
                dt = np.log1p(np.exp(dt))
                state = np.exp(-dt * np.exp(own["A_log"][0])) * state + dt * value * mixed[1:3]
                outputs.append(state @ mixed[3:] + own["D"][0] * value)
            total[token] += np.asarray(outputs)[:: 1 - 2 * direction]
    y = (total * jax.nn.silu(gate[0])) @ params["out_proj"]["kernel"]
    y = y + params["out_proj"]["bias"][None]
    np.testing.assert_allclose(mixer.apply({"params": params}, x)[0], y, rtol=1e-4, atol=1e-5)


def test_the_multi_scale_mixer_reads_a_quarter_less_than_half():
    """1.75 T tokens go through its scans, 4 T through those of four directions."""

    def scanned(name, grid):
        mixer = create_mixer(name, heads=2, use_bias=False)
        x = jax.ShapeDtypeStruct((1, grid[0] * grid[1], DIM), jnp.float32)
        made = jax.eval_shape(lambda key, x: mixer.init(key, x, grid=grid), jax.random.key(0), x)
        run = lambda v, x: mixer.apply(  # noqa: E731
            v, x, grid=grid, mutable=["intermediates"], capture_intermediates=True
        )[1]["intermediates"]
        sown = jax.eval_shape(run, {"params": made["params"]}, x)
        shapes = [leaf["__call__"][0].shape for name, leaf in sown.items() if "ssm" in name]
        return sum(int(np.prod(shape[:-1])) for shape in shapes)

    assert scanned("mamba_multi_scale", (8, 8)) == 1.75 * 64
    assert scanned("mamba_four_way", (8, 8)) == 4 * 64
    assert scanned("mamba_multi_scale", (7, 5)) == 35 + 3 * 4 * 3
