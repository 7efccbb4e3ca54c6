"""One prepared `digits` for all tests."""

import pytest

from scanmax.data.__main__ import prepare


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder in which `digits` is prepared."""
    path = str(tmp_path_factory.mktemp("tfds"))
    prepare("digits", path)
    return path
