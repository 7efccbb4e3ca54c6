"""ResKANet: the suite of every model, counts of the released modules, and its fields of ResNet."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.testing import ModelCase, ModelSuite

TINY = {
    "dims": (4, 6),
    "depths": (2, 1),
    "stem_dims": (4,),
    "num_classes": 5,
    "options": {"degree": 2},
}


class ResKanetSuite(ModelSuite):
    family = "resnet_kan"
    # The others differ in functions and depths; all are counted below.
    names = ("reskagnetbn_18x32p", "reskagnet50")
    small = (
        ModelCase("reskagnet_bn50", TINY, input_size=(32, 32, 3), other_inputs=((33, 47, 3),)),
    )


def test_every_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("resnet_kan", ResKanetSuite.names)


def test_fields_of_resnets_count_or_are_refused():
    images = jnp.zeros((1, 8, 8, 3))

    def paths(**fields):
        model = create_model("reskagnet_18x32p", **fields)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(variables["params"]))
        return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}

    plain = paths()
    assert set(paths(channel_attention="se")) > set(plain)
    routed = set(paths(experts={"num_experts": 2}, norm_layer="instance")) - set(plain)
    assert {path.split("']['")[1] for path in routed if "routed" in path} == {"conv1"}
    name = "['stage1_first_00']['conv1']['base']['kernel']"
    assert (plain[name], paths(groups=2)[name]) == ((3, 3, 8, 16), (3, 3, 4, 16))
    with pytest.raises(UserError, match="chooses among plain convolutions"):
        paths(selective_kernel={})
