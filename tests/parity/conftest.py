"""The peers, imported when a parity test first asks: the normal suite collects without them."""

import importlib

import pytest


@pytest.fixture(scope="session")
def peers():
    return importlib.import_module("parity.peers")
