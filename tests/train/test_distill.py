"""Filters distilled into modal state spaces: what is exact, and what the Hankel values foretell."""

import jax.numpy as jnp
import numpy as np
import pytest

from scanmax import ops
from scanmax.train.distill import distill_filter


def filters(modes, length=48, dim=2):
    """Sums of decaying oscillations, [T, D]."""
    rng = np.random.default_rng(0)
    arrays = {
        "log_magnitude": -rng.uniform(0.02, 0.2, size=(dim, modes)),
        "angle": np.pi * (np.arange(modes) + rng.uniform(0.2, 0.8, size=(dim, modes))) / modes,
        "residue": rng.normal(size=(dim, modes, 2)),
        "D": rng.normal(size=dim),
    }
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    return ops.modal_ssm_filter(**arrays, length=length), arrays


def test_a_modal_filter_is_found_again():
    taps, arrays = filters(3)
    fit = distill_filter(taps, 3, steps=0)
    assert float(fit.error.max()) < 1e-4
    np.testing.assert_allclose(jnp.sort(fit.parameters["angle"]), arrays["angle"], atol=1e-2)
    np.testing.assert_allclose(fit.parameters["D"], arrays["D"])
    x = jnp.asarray(np.random.default_rng(1).normal(size=(48, 2)), jnp.float32)
    convolved = ops.fft_conv(x, taps)
    np.testing.assert_allclose(ops.modal_ssm(x, **fit.parameters), convolved, atol=1e-3)


def test_the_error_falls_with_the_order_and_gradients_only_lower_it():
    taps, _ = filters(6)
    values = ops.hankel_singular_values(taps)
    errors = []
    for modes in (1, 2, 4):
        truncated = distill_filter(taps, modes, steps=0)
        refined = distill_filter(taps, modes, steps=40)
        assert (refined.error <= truncated.error + 1e-6).all()
        # the printed error is that of the filter that the parameters make
        made = ops.modal_ssm_filter(**refined.parameters, length=48)
        norm = jnp.linalg.norm(taps[1:], axis=0)
        np.testing.assert_allclose(
            jnp.linalg.norm(made - taps, axis=0) / norm, refined.error, rtol=1e-3
        )
        # nobody comes closer, over all frequencies, than the next singular value
        spectrum = jnp.abs(jnp.fft.rfft(made - taps, 4 * 48, axis=0)).max(0)
        assert (spectrum >= 0.5 * values[:, 2 * modes]).all()
        errors.append(refined.error)
    assert (errors[0] > errors[1]).all()
    assert (errors[1] > errors[2]).all()


def test_fewer_poles_than_modes_and_silence():
    taps = jnp.stack([0.5 ** jnp.arange(12.0), jnp.zeros(12)], -1)
    fit = distill_filter(taps, 3, steps=3)
    made = ops.modal_ssm_filter(**fit.parameters, length=12)
    np.testing.assert_allclose(made, taps, atol=1e-5)
    assert bool(jnp.isfinite(fit.error).all())


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="filter has shape"):
        distill_filter(jnp.ones((3, 1)), 1)
    with pytest.raises(ValueError, match="modes=0"):
        distill_filter(jnp.ones((8, 1)), 0)
