"""The all convolutional net: the suite of every model, its comparison, a wrong name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.testing import ModelCase, ModelSuite

TINY = {"dims": (3, 4), "top_dim": 5, "num_classes": 3}
IMAGENET = "all_cnn_b_imagenet"


class AllCnnSuite(ModelSuite):
    family = "all_cnn"
    small = (ModelCase("all_cnn_c", TINY, (12, 12, 3), other_inputs=((9, 9, 3), (16, 11, 3))),)

    def pooled_channels(self, info) -> int:
        return create_model(info.name).top_dim

    def test_every_variant_has_the_maps_it_announces(self):
        self.names = [name for name in list_models(family="all_cnn") if name != IMAGENET]
        super().test_every_variant_has_the_maps_it_announces()
        # As AlexNet's, without padding in the reductions: 6x6 places are averaged at the end.
        maps = jax.eval_shape(
            lambda variables, images: create_model(IMAGENET).apply(
                variables, images, method="features"
            ),
            nn.unbox(self.shapes(IMAGENET)[1]),
            model_info(IMAGENET).example(),
        )
        assert [entry.shape[1:] for entry in maps] == [
            (side, side, feature.channels)
            for side, feature in zip((55, 27, 13, 6), model_info(IMAGENET).features)
        ]


def shape(model, side=32):
    return jax.eval_shape(
        lambda key, images: model.init_with_output(key, images, method="features"),
        jax.random.key(0),
        jnp.zeros((1, side, side, 3)),
    )[0]


@pytest.mark.parametrize("network", "abc")
def test_the_comparison_changes_reductions_alone(network):
    """All-CNN and ConvPool-CNN weigh the same, the base and Strided-CNN two 3x3 kernels less."""
    counts = {
        kind: model_info(f"{kind}_{network}").params
        for kind in ("all_cnn", "conv_pool_cnn", "strided_cnn", "all_cnn_base")
    }
    assert counts["all_cnn"] == counts["conv_pool_cnn"]
    assert counts["strided_cnn"] == counts["all_cnn_base"]
    reductions = sum(9 * dim * dim + dim for dim in (96, 192))
    assert counts["all_cnn"] - counts["all_cnn_base"] == reductions == 415_008
    for kind in counts:
        assert shape(create_model(f"{kind}_{network}"))[-1].shape == (1, 8, 8, 192)


@pytest.mark.parametrize("reduction", ["pool", "conv_pool"])
def test_reductions_compute_what_their_name_says(reduction):
    """With weights of ones on an image of ones: how many kernels a value has gone through."""
    model = create_model("all_cnn_c", dims=(1,), kernels=((1,),), reduction=reduction, top_dim=1)
    images = jnp.ones((1, 9, 9, 1))
    variables = model.init(jax.random.key(0), images)
    ones = jax.tree.map(lambda x: jnp.full_like(x, x.ndim > 1), nn.unbox(variables))
    reduced = model.apply(ones, images, method="features")[-1]
    assert reduced.shape == (1, 5, 5, 1)
    assert reduced[0, 2, 2, 0] == {"pool": 1, "conv_pool": 9}[reduction]


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="unknown reduction 'strid'; did you mean 'stride'"):
        shape(create_model("all_cnn_c", reduction="strid"))
    with pytest.raises(UserError, match="as many stages each"):
        shape(create_model("all_cnn_c", dims=(3,)))
    with pytest.raises(ValueError, match="at least 9 pixels"):
        shape(create_model("all_cnn_c"), 8)
    assert shape(create_model("all_cnn_c"), 9)[-1].shape == (1, 3, 3, 192)
