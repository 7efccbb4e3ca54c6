"""MoH-ViT: the suite of every model, exact counts, and the loss that it sows."""

import jax
import pytest
from golden import make_authors
from models.vision.exact_counts import assert_every_size_has_its_exact_count

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.testing import ModelCase, ModelSuite


class MohVitSuite(ModelSuite):
    family = "moh_vit"
    names = ("moh_transnext_small_75",)
    small = (
        ModelCase(
            "moh_transnext_small_75",
            {
                **make_authors.AGGREGATED,
                "img_size": 16,
                "dims": (4, 10),
                "depths": (1, 1),
                "heads": (2, 5),
                "mlp_ratio": 3.0,
                "shared_heads": (2, 2),
                "routed_heads": (0, 2),
                "num_classes": 5,
            },
            input_size=(16, 16, 3),
            other_inputs=((19, 26, 3),),
        ),
    )
    # A softmax takes away what all keys share.
    vanishing = r"stage1_block(s|_\d+)/mixer/position_bias/fc2/bias"


def test_every_published_size_has_its_exact_count():
    assert_every_size_has_its_exact_count("moh_vit", MohVitSuite.names)


def test_each_block_that_routes_sows_its_share_of_the_balance():
    model, variables, images, _ = make_authors.seeded_run("moh_vit")
    run = jax.eval_shape(lambda: model.apply(variables, images, train=True, mutable=["losses"])[1])
    assert list(run["losses"]) == ["stage1_block_00"]
    gates = model.block_fields(1)[0]["mixer_options"]["cosine"]["head_gates"]
    assert gates == {"shared_heads": 2, "routed_heads": 2, "balance_weight": 0.01}


def test_every_stage_has_its_heads():
    with pytest.raises(UserError, match=r"routed_heads=\(1,\): expected 4 numbers each"):
        create_model("moh_transnext_small_75", routed_heads=(1,)).block_fields(0)
