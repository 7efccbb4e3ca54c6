"""What packages show to who types a dot: functions, classes and tables."""

import importlib
import types

import pytest

import scanmax.models.mixers
import scanmax.train

PACKAGES = ("", ".models", ".models.mixers", ".models.weights", ".data", ".train", ".testing")
REGISTRIES = ("losses", "terms", "mixing", "objectives", "gradients", "relabels", "evaluators")


@pytest.mark.parametrize("package", [*PACKAGES, *(f".train.{name}" for name in REGISTRIES)])
def test_a_package_shows_functions_and_classes(package):
    module = importlib.import_module(f"scanmax{package}")
    assert dir(module) == module.__all__
    values = {name: getattr(module, name) for name in module.__all__}
    modules = [name for name, value in values.items() if isinstance(value, types.ModuleType)]
    assert modules == (["ops"] if not package else [])
    named = [name for name, value in values.items() if not callable(value) and name.islower()]
    assert named == (["__version__", "ops"] if not package else [])
    # What it works with is not what it offers.
    assert not {"Any", "Mapping", "dataclasses", "shown", "TYPE_CHECKING"} & set(values)


def test_a_package_shows_what_it_promises():
    assert {"create_model", "load", "load_weights", "ops"} <= set(dir(scanmax))
    assert {"MIXERS", "Mixer", "create_mixer"} <= set(dir(scanmax.models.mixers))
    assert "train" in dir(scanmax.train)
