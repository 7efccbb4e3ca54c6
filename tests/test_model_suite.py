"""A sound family passes the model suite, and every fault fails the test meant for it."""

import unittest
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from scanmax.models import Variant, register_family, registry
from scanmax.models.layers import Dense, DropPath
from scanmax.models.registry import Feature
from scanmax.testing import ModelCase, ModelSuite

PARAMS = 3 * 6 + 6 + 6 * 6 + 6 + 6 * 5 + 5


class Toy(nn.Module):
    """Two linear maps of every pixel, a mean, a head; `fault` breaks it in the way of that name."""

    fault: str = ""
    num_classes: int = 5
    drop_path_rate: float = 0.0
    remat: bool | str = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, images, train: bool = False):
        return self.forward(images, train)

    def features(self, images, train: bool = False):
        return (self.forward(images, train, as_maps=True),)

    @nn.compact
    def forward(self, images, train, as_maps=False):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.fault == "unaware":
            dtypes["dtype"] = jnp.float32
        x = Dense(6, ("conv_in", "conv_out"), name="pixels", **dtypes)(images)
        self.sow("intermediates", "stem", x)
        if self.fault == "size":
            assert images.shape[1] == 4
        dense = nn.remat(Dense) if self.remat and self.fault != "keeping" else Dense
        branch = dense(6, ("embed", "mlp"), name="mix", **dtypes)(x)
        if self.fault == "stopped":
            branch = jax.lax.stop_gradient(branch)
        if self.fault == "remat" and self.remat:
            branch = 1.001 * branch
        x = x + DropPath()(jax.nn.gelu(branch), self.drop_path_rate, train)
        if self.fault == "bare":
            x = x + self.param("bare", nn.initializers.ones, (), self.param_dtype)
        if self.fault == "hidden":
            x = Dense(6, ("conv_in", "conv_out"), name="features", **dtypes)(x)
        if self.fault == "unread":
            Dense(1, name="unread", **dtypes)(x)
        if as_maps:
            return x
        x = jnp.mean(x, axis=(1, 2))
        if self.fault != "silent":
            self.sow("intermediates", "pre_logits", x)
        if not self.num_classes and self.fault != "headed":
            return x
        classes = self.num_classes or 5
        return Dense(classes, ("embed", "classes"), name="head", **dtypes)(x)

    @nn.nowrap
    def feature_info(self):
        return (Feature("mix", 1, 7 if self.fault == "maps" else 6),)


@pytest.fixture
def failures(monkeypatch):
    """Runs the suite of a Toy with a fault: name of each failing test -> why."""
    registry.list_models()
    monkeypatch.setattr(registry, "_families", dict(registry._families))

    def run(fault: str, wanted: str = "", **own) -> dict[str, str]:
        params = PARAMS + (fault == "count")
        variants = {"toy": Variant(params, (8, 8, 3), "", {"fault": fault})}
        register_family("toy", Toy, variants)
        case = ModelCase("toy", input_size=(4, 4, 3), other_inputs=((6, 4, 3),))
        suite = type("ToySuite", (ModelSuite,), {"family": "toy", "small": (case,), **own})
        result = unittest.TestResult()
        for name in unittest.defaultTestLoader.getTestCaseNames(suite):
            if wanted in name:
                suite(name).run(result)
        assert result.testsRun, f"the suite has no test called like {wanted}"
        return {
            getattr(test, "test_case", test).id().rsplit(".", 1)[-1]: text
            for test, text in result.failures + result.errors
        }

    return run


def test_a_sound_family_passes(failures):
    assert failures("") == {}


@pytest.mark.parametrize(
    ("fault", "test", "reason"),
    [
        ("count", "exact_parameter_count", f"toy has {PARAMS} parameters"),
        ("maps", "maps_it_announces", "(2, 8, 8, 7)"),
        ("headed", "loses_its_head", "(2, 5) != (2, 6)"),
        ("unaware", "computes_in_bfloat16", "float32"),
        ("bare", "logical_axes", "['bare'] carries no logical axes"),
        ("hidden", "hides_behind_a_method", "features is a method of Toy"),
        ("unread", "every_variant_is_used", "['unread']['kernel']"),
        ("stopped", "gradients_reach", "no gradient for toy['mix']"),
        ("remat", "remat_changes_nothing", "relative"),
        ("keeping", "remat_changes_nothing", "toy keeps what remat=True should drop"),
        ("size", "other_inputs", "AssertionError"),
        ("silent", "intermediates_are_sown", "pre_logits"),
    ],
)
def test_a_fault_fails_the_test_meant_for_it(failures, fault, test, reason):
    found = failures(fault, test)
    assert len(found) == 1, found
    assert reason in next(iter(found.values()))


def test_a_gradient_said_to_vanish_is_held_to_it(failures):
    found = failures("", "gradients_reach", vanishing=r"mix/bias")
    assert "['mix']['bias']" in next(iter(found.values()))
    assert failures("unread", "every_variant_is_used", vanishing=r"unread/.*") == {}
