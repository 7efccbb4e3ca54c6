"""Assertions on trees of arrays, with failures that say which entry is off and by how much."""

import jax
import numpy as np


def _paired_leaves(actual, expected):
    """Pairs of float64 arrays with their path; raises where the structures or shapes differ."""
    actual_leaves, actual_tree = jax.tree_util.tree_flatten_with_path(actual)
    expected_leaves, expected_tree = jax.tree_util.tree_flatten_with_path(expected)
    if actual_tree != expected_tree:
        raise AssertionError(f"structure {actual_tree} differs from the expected {expected_tree}")
    for (path, left), (_, right) in zip(actual_leaves, expected_leaves, strict=True):
        name = jax.tree_util.keystr(path) or "result"
        if np.shape(left) != np.shape(right):
            raise AssertionError(f"{name}: shape {np.shape(left)}, expected {np.shape(right)}")
        yield name, np.asarray(left, np.float64), np.asarray(right, np.float64)


def assert_relative(actual, expected, tolerance: float) -> None:
    """Every entry agrees to `tolerance` times the largest finite entry of its expected array.

    Infinities must stand in the same places with the same sign; a NaN on either side fails.

    >>> assert_relative({"y": np.ones(3) + 1e-13}, {"y": np.ones(3)}, 1e-12)
    """
    for name, left, right in _paired_leaves(actual, expected):
        if np.isnan(right).any():
            raise AssertionError(f"{name}: the expected values hold NaN")
        finite = np.isfinite(right)
        if not np.array_equal(left[~finite], right[~finite]):
            raise AssertionError(f"{name}: infinities stand in other places than expected")
        largest = np.abs(right[finite]).max(initial=0.0)
        error = np.abs(np.where(finite, left, 0.0) - np.where(finite, right, 0.0))
        if not np.all(error <= tolerance * largest):
            worst = np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)
            raise AssertionError(
                f"{name}: at {tuple(int(i) for i in worst)} got {left[worst]!r}, expected "
                f"{right[worst]!r}; error {error[worst]:.3e} of largest {largest:.3e} is over "
                f"{tolerance:.0e} relative; {np.count_nonzero(~(error <= tolerance * largest))} "
                f"of {error.size} entries are off"
            )


def relative_rms(actual, expected) -> float:
    """Root mean square of the error over that of the expected values; 0 / 0 counts as 0.

    >>> relative_rms(np.array([3.0, 4.4]), np.array([3.0, 4.0])) < 0.081
    True
    """
    left, right = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    same_infinity = np.isinf(right) & (left == right)
    error = np.where(same_infinity, 0.0, left - np.where(same_infinity, 0.0, right))
    error = np.where(same_infinity, 0.0, error)
    scale = np.sqrt(np.mean(np.square(np.where(same_infinity, 0.0, right)))) if right.size else 0.0
    deviation = np.sqrt(np.mean(np.square(error))) if right.size else 0.0
    if deviation == 0.0:
        return 0.0
    return float(deviation / scale) if scale > 0.0 else float("inf")


def assert_rms(actual, expected, tolerance: float) -> None:
    """The relative RMS error of every leaf is at most `tolerance`."""
    for name, left, right in _paired_leaves(actual, expected):
        error = relative_rms(left, right)
        if not error <= tolerance:
            raise AssertionError(f"{name}: relative RMS error {error:.3e} is over {tolerance:.0e}")


def assert_bitwise(actual, expected) -> None:
    """Both trees hold the same bits; NaN equals NaN."""
    for name, left, right in _paired_leaves(actual, expected):
        if not np.array_equal(left, right, equal_nan=True):
            raise AssertionError(f"{name}: {np.count_nonzero(left != right)} entries differ")
