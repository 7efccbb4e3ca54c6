"""RandAugment's operations and their strengths against timm's, on the same draws."""

import random

import numpy as np
import pytest
from PIL import Image

from scanmax.data import randaugment

pytestmark = pytest.mark.parity

NAMES = {
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


@pytest.fixture(scope="module")
def theirs(peers):
    """timm's augmentation module; `peers` makes timm importable."""
    del peers
    from timm.data import auto_augment

    return auto_augment


def test_the_operations_are_the_same_set(theirs):
    assert [NAMES[name] for name in randaugment.OPERATIONS] == theirs._RAND_INCREASING_TRANSFORMS


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [1.0, 5.3, 9.0])
def test_operation_equals_timm(theirs, monkeypatch, name, level):
    fill, method = (124, 116, 104), Image.Resampling.BICUBIC
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 40, 3)).astype(np.uint8))
    hparams = {"img_mean": fill, "interpolation": method}
    for draw, sign in ((0.9, -1.0), (0.1, 1.0)):
        monkeypatch.setattr(random, "random", lambda draw=draw: draw)
        operation = theirs.AugmentOp(NAMES[name], prob=1.0, magnitude=level, hparams=hparams)
        expected = np.asarray(operation(image))
        value = randaugment.argument(name, level, sign)
        canvas = randaugment.Canvas(fill, method)
        found = np.asarray(randaugment.OPERATIONS[name](image, value, canvas))
        np.testing.assert_array_equal(found, expected)


def test_the_published_policy_reads_alike(theirs):
    policy = randaugment.parse("rand-m9-mstd0.5-inc1")
    peer = theirs.rand_augment_transform("rand-m9-mstd0.5-inc1")
    assert policy.layers == peer.num_layers
    assert (policy.magnitude, policy.spread) == (peer.ops[0].magnitude, peer.ops[0].magnitude_std)
    assert policy.probability == peer.ops[0].prob
