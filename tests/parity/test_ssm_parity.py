"""The scans against transformers' torch code, forward, states and gradients."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from scanmax import ops

pytestmark = pytest.mark.parity


def _peer(peers, family):
    """torch, and the module of a family of transformers; `peers` makes them importable."""
    return peers.torch, importlib.import_module(f"transformers.models.{family}.modeling_{family}")


def _assert_close(actual, expected):
    expected = expected.detach().numpy() if hasattr(expected, "detach") else expected
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerances.PARITY * scale)


def _mamba2_inputs(length, batch=2, heads=4, groups=2, states=8, width=6):
    rng = np.random.default_rng(length)
    arrays = {
        "x": rng.normal(size=(batch, length, heads, width)),
        "dt": rng.normal(size=(batch, length, heads)),
        "A": -rng.uniform(1, 16, size=heads),
        "B": rng.normal(size=(batch, length, groups, states)),
        "C": rng.normal(size=(batch, length, groups, states)),
        "D": rng.normal(size=heads),
        "dt_bias": rng.normal(size=heads) - 3,
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.mark.parametrize("length", [5, 64, 100])
def test_ssd_and_its_gradients_equal_transformers_chunk_scan(length, peers):
    torch, mamba2 = _peer(peers, "mamba2")
    arrays = _mamba2_inputs(length)
    start = np.random.default_rng(0).normal(size=(2, 4, 8, 6)).astype(np.float32)
    limits = (0.01, 0.5)

    tensors = {name: torch.tensor(z, requires_grad=True) for name, z in arrays.items()}
    named = {**tensors, "hidden_states": tensors["x"]}
    named.pop("x")
    y, state = mamba2.mamba2_chunk_scan(
        **named,
        chunk_size=16,
        dt_softplus=True,
        dt_limit=limits,
        initial_states=torch.tensor(start).transpose(-1, -2),
        return_final_states=True,
    )
    (y.square().sum() + state.square().sum()).backward()

    def loss(arrays):
        y, state = ops.ssd(
            **arrays, dt_softplus=True, dt_limit=limits, initial_state=start, return_state=True
        )
        return (y**2).sum() + (state**2).sum(), (y, state)

    gradients, (ours, our_state) = jax.jit(jax.grad(loss, has_aux=True))(arrays)
    _assert_close(ours, y)
    _assert_close(our_state.swapaxes(-1, -2), state)
    for name, gradient in gradients.items():
        _assert_close(gradient, tensors[name].grad)


def test_ssd_step_equals_transformers_state_update(peers):
    torch, mamba2 = _peer(peers, "mamba2")
    arrays = _mamba2_inputs(1)
    heads, width, states = 4, 6, 8
    start = np.random.default_rng(0).normal(size=(2, heads, states, width)).astype(np.float32)
    state = torch.tensor(start).transpose(-1, -2).contiguous()
    t = {name: torch.tensor(z) for name, z in arrays.items()}
    y = mamba2.mamba2_selective_state_update(
        state,
        t["x"][:, 0],
        t["dt"][:, 0, :, None].expand(-1, -1, width),
        t["A"][:, None, None].expand(-1, width, states),
        t["B"][:, 0],
        t["C"][:, 0],
        t["D"][:, None].expand(-1, width),
        dt_bias=t["dt_bias"][:, None].expand(-1, width),
        dt_softplus=True,
    )
    tokens = {name: arrays[name][:, 0] for name in ("x", "dt", "B", "C")}
    rest = {name: arrays[name] for name in ("A", "D", "dt_bias")}
    ours, our_state = ops.ssd_step(start, **tokens, **rest, dt_softplus=True)
    _assert_close(ours, y)
    _assert_close(our_state.swapaxes(-1, -2), state)


def test_the_selective_scan_and_its_gradients_equal_transformers(peers):
    torch, mamba = _peer(peers, "mamba")
    rng = np.random.default_rng(0)
    batch, length, dim, states = 2, 70, 6, 4
    arrays = {
        "x": rng.normal(size=(batch, length, dim)),
        "dt": rng.normal(size=(batch, length, dim)),
        "A": -rng.uniform(1, 16, size=(dim, states)),
        "B": rng.normal(size=(batch, length, states)),
        "C": rng.normal(size=(batch, length, states)),
        "D": rng.normal(size=dim),
        "dt_bias": rng.normal(size=dim) - 3,
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    t = {name: torch.tensor(z, requires_grad=True) for name, z in arrays.items()}
    y, state = mamba.mamba_selective_scan(
        *(t[name].transpose(1, 2) for name in ("x", "dt")),
        t["A"],
        *(t[name].transpose(1, 2) for name in ("B", "C")),
        t["D"],
        delta_bias=t["dt_bias"],
        delta_softplus=True,
        return_last_state=True,
    )
    (y.square().sum() + state.square().sum()).backward()

    def loss(arrays):
        y, state = ops.selective_scan(**arrays, dt_softplus=True, return_state=True)
        return (y**2).sum() + (state**2).sum(), (y, state)

    gradients, (ours, our_state) = jax.jit(jax.grad(loss, has_aux=True))(arrays)
    _assert_close(ours.swapaxes(1, 2), y)
    _assert_close(our_state, state)
    for name, gradient in gradients.items():
        _assert_close(gradient, t[name].grad)


def test_the_causal_convolution_and_its_step_equal_transformers(peers):
    torch, mamba2 = _peer(peers, "mamba2")
    rng = np.random.default_rng(0)
    x, kernel, bias, before = (
        rng.normal(size=shape).astype(np.float32) for shape in ((2, 9, 5), (4, 5), (5,), (2, 4, 5))
    )
    weight = torch.tensor(kernel.T.copy())
    y = mamba2.causal_conv1d_fn(
        torch.tensor(x).transpose(1, 2), weight, torch.tensor(bias), activation="silu"
    )
    _assert_close(ops.causal_conv1d(x, kernel, bias, activation="silu"), y.transpose(1, 2))
    # their state keeps one token more than the filter reads
    theirs = torch.tensor(before).transpose(1, 2).contiguous()
    y = mamba2.causal_conv1d_update(
        torch.tensor(x[:, :1]).transpose(1, 2), theirs, weight, torch.tensor(bias), "silu"
    )
    ours, state = ops.causal_conv1d_step(
        jnp.asarray(before[:, 1:]), x[:, 0], kernel, bias, activation="silu"
    )
    _assert_close(ours, y[..., 0])
    _assert_close(state, theirs.transpose(1, 2)[:, 1:])
