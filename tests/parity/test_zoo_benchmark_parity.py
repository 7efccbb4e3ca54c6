"""The benchmark of networks against timm: a tiny one is right by its own check, and all exist."""

import numpy as np
import pytest

import scanmax
from benchmarks import harness, zoo
from benchmarks.peers import import_peer

pytestmark = pytest.mark.parity


@pytest.fixture
def tiny():
    """Rows of a network with batch norms, small enough to compile soon."""
    entry = zoo.Network("inception_next_tiny", both_layouts=True, quick_size=64)
    return zoo.rows(entry, True, depths=(1, 1, 1, 1), dims=(8, 16, 16, 16))


def test_forward_and_step_of_a_tiny_network_are_those_of_timm(tiny):
    for row in tiny:
        records = harness.measure(row, seconds=0.01, quick=True)
        assert [record["contender"] for record in records] == [
            *("scanmax", "timm, contiguous", "timm, channels last"),
        ]
        assert not any(record.get("wrong") for record in records), records
        assert all(record["speedup"] > 0 for record in records[1:])
        assert max(record["error"] for record in records) < 2e-3


def test_a_step_of_other_weights_is_wrong(tiny):
    _, step = tiny
    theirs = step.peers[0].result

    def moved(loss):
        value, moments = theirs(loss)
        return value, np.asarray(moments) * 1.02

    step.peers[0].result = moved
    records = harness.measure(step, seconds=0.01, quick=True)
    assert all(record["wrong"] for record in records)


def test_every_network_is_one_of_both_and_draws_nothing():
    timm = import_peer("timm")
    for case, entry in zoo.NETWORKS.items():
        assert case in harness.GROUPS["zoo"]
        assert timm.is_model(entry.name), entry.name
        model = scanmax.create_model(entry.name)
        rates = [getattr(model, rate, 0.0) for rate in ("drop_path_rate", "dropout_rate")]
        assert rates == [0.0, 0.0], entry.name
