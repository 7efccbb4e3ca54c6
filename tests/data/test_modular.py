"""Modular arithmetic: the whole table, once."""

import numpy as np
import pytest

from scanmax.data.modular import modular_arithmetic


def test_the_parts_are_the_table():
    for operation, result in (("add", 12 + 9), ("subtract", 12 - 9), ("multiply", 12 * 9)):
        parts = modular_arithmetic(13, operation=operation, train_fraction=0.4, seed=1)
        assert [len(part.results) for part in parts] == [67, 102]
        pairs = np.concatenate([part.pairs for part in parts])
        results = np.concatenate([part.results for part in parts])
        assert len({tuple(pair) for pair in pairs.tolist()}) == 169
        chosen = (pairs == [12, 9]).all(-1)
        assert results[chosen].tolist() == [result % 13]


def test_the_cut_depends_on_the_seed_alone():
    first, again, other = (modular_arithmetic(7, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.pairs, again.pairs)
    assert not np.array_equal(first.pairs, other.pairs)


def test_mistakes():
    with pytest.raises(ValueError, match="modulus=1"):
        modular_arithmetic(1)
    with pytest.raises(ValueError, match="did you mean 'add'"):
        modular_arithmetic(5, operation="ad")
    with pytest.raises(ValueError, match="train_fraction=1"):
        modular_arithmetic(5, train_fraction=1.0)
