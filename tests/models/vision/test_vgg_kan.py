"""VGG-KAGN: the suite of every model, and the published count of the bottleneck."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, model_info
from scanmax.testing import ModelCase, ModelSuite

TINY = {"dims": (3, 4), "depths": (1, 2), "num_classes": 5, "options": {"degree": 2}}


class VggKanSuite(ModelSuite):
    family = "vgg_kan"
    small = (ModelCase("vgg_kagn_bn11_v4", TINY, input_size=(8, 8, 3), other_inputs=((12, 9, 3),)),)


def test_the_bottleneck_has_a_sixth_of_the_parameters():
    assert model_info("vgg_kagn_bn11_v4").params / 1e6 == pytest.approx(7.25, abs=0.005)
    assert model_info("vgg_kagn11_v4").params > 5.7 * model_info("vgg_kagn_bn11_v4").params


def test_attention_and_experts_take_their_places():
    def layers(**fields):
        model = create_model("vgg_kagn_bn11_v4", **{**TINY, **fields})
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        return nn.unbox(shapes["params"])

    fields = {"attention_stages": (0,), "last_attention": True, "attention_reduction": 2}
    found = layers(**fields, experts={"num_experts": 2})
    assert found["stage0_attention"]["inner"]["kernel"].shape == (1, 1, 3, 1)
    assert found["stage1_conv1"]["query"]["base"]["kernel"].shape == (3, 3, 2, 2)
    coefficients = found["stage1_conv0"]["routed"]["experts"]["coefficients"]
    assert coefficients.shape == (2, 3, 3, 3, 3, 3)
    assert "routed" not in found["stage0_conv0"]
    with pytest.raises(UserError, match="stages are 0 to 1"):
        layers(attention_stages=(2,))
