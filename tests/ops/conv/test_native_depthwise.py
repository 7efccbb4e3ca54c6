"""Depthwise convolution by the kernel in C++ for CPUs, against the equation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from scanmax import ops
from scanmax.ops import native

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")
NATIVE = functools.partial(ops.depthwise_conv2d, implementation="cpu")
# Maps, taps and padding; channels fill lines of 16 or do not, rows blocks of 6, taps groups of 7.
CASES = {
    "same": ((2, 9, 13, 20), (7, 7), "SAME"),
    "a row of taps": ((3, 30, 16), (1, 11), "SAME"),
    "valid": ((2, 1, 13, 12, 8), (3, 4), "VALID"),
    "each side its own": ((1, 8, 9, 5), (4, 5), ((3, 0), (2, 1))),
    "more border than taps": ((1, 4, 5, 17), (2, 3), ((5, 3), (4, 6))),
    "larger than the map": ((1, 4, 3, 3), (9, 15), "SAME"),
}


def arrays(size, taps):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in (size, (*taps, 1, size[-1]))]


def by_taps(x, kernel, padding, d_y):
    """The sums, tap by tap, and the gradients of maps and kernel for that of the sums."""
    if padding in ("SAME", "VALID"):
        whole = [((n - 1) // 2, n // 2) for n in kernel.shape[:2]]
        padding = whole if padding == "SAME" else ((0, 0), (0, 0))
    widths = [(0, 0)] * (x.ndim - 3) + [*padding, (0, 0)]
    padded = np.pad(x, widths)
    y, d_padded, d_kernel = np.zeros(d_y.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
    for i, j in np.ndindex(kernel.shape[:2]):
        place = np.s_[..., i : i + y.shape[-3], j : j + y.shape[-2], :]
        y += padded[place] * kernel[i, j]
        d_padded[place] += d_y * kernel[i, j]
        d_kernel[i, j] = (padded[place] * d_y).reshape(-1, x.shape[-1]).sum(0)
    (top, _), (left, _) = padding
    d_x = d_padded[..., top : top + x.shape[-3], left : left + x.shape[-2], :]
    return y, d_x, d_kernel[:, :, None]


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_equation(case):
    size, taps, padding = CASES[case]
    x, kernel = arrays(size, taps)
    y, pull = jax.vjp(functools.partial(NATIVE, padding=padding), x, kernel)
    assert y.dtype == jnp.float32
    d_y = np.random.default_rng(1).normal(size=y.shape)
    got = [y, *pull(jnp.asarray(d_y, jnp.float32))]
    expected = by_taps(x.astype(np.float64), kernel[:, :, 0], padding, d_y)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6 * np.abs(other).max(), rtol=0)


def test_examples_of_vmap_take_their_turn():
    x, kernel = arrays((3, 5, 6, 4), (5, 5))
    kernels = np.stack([kernel, 2 * kernel, -kernel])
    got = jax.vmap(NATIVE)(x, kernels)
    expected = jax.vmap(functools.partial(ops.depthwise_conv2d, implementation="xla"))(x, kernels)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def is_native(taps=(5, 5), dtype=jnp.float32, **options):
    """Whether a call is the kernel."""
    # What was traced in another environment is not asked again.
    jax.clear_caches()
    x, kernel = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, 8, 8, 4), (*taps, 1, 4)))
    call = functools.partial(ops.depthwise_conv2d, **options)
    return "scanmax_depthwise" in str(jax.make_jaxpr(call)(x, kernel))


def test_it_is_taken_by_name_or_where_the_environment_says(monkeypatch):
    monkeypatch.delenv("SCANMAX_NATIVE", raising=False)
    assert not is_native()
    assert is_native((3, 3), implementation="cpu")
    assert is_native(implementation=("pallas", "cpu"))
    with pytest.raises(NotImplementedError, match=r"cpu does not serve stride=\(2, 2\)"):
        is_native(implementation="cpu", stride=2)
    monkeypatch.setenv("SCANMAX_NATIVE", "1")
    assert is_native()
    for options in (
        {"taps": (3, 3)},
        {"dtype": jnp.bfloat16},
        {"stride": 2},
        {"dilation": 2},
        {"implementation": "xla"},
    ):
        assert not is_native(**options), options
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert not is_native()
