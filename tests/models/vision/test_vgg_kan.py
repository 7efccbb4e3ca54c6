"""VGG-KAGN: the suite of every model, and the published count of the bottleneck."""

import pytest

from scanmax.models import model_info
from scanmax.testing import ModelCase, ModelSuite

TINY = {"dims": (3, 4), "depths": (1, 2), "num_classes": 5, "options": {"degree": 2}}


class VggKanSuite(ModelSuite):
    family = "vgg_kan"
    small = (ModelCase("vgg_kagn_bn11_v4", TINY, input_size=(8, 8, 3), other_inputs=((12, 9, 3),)),)


def test_the_bottleneck_has_a_sixth_of_the_parameters():
    assert model_info("vgg_kagn_bn11_v4").params / 1e6 == pytest.approx(7.25, abs=0.005)
    assert model_info("vgg_kagn11_v4").params > 5.7 * model_info("vgg_kagn_bn11_v4").params
