"""ResNets: the suite of every model, exact counts of all sizes, batch statistics on a mesh."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models import create_model, list_models, model_info
from scanmax.models.analysis import default_multiply_adds
from scanmax.testing import ModelCase, ModelSuite, compare

TINY = {"dims": (4, 8), "depths": (1, 3), "num_classes": 5}


class ResNetSuite(ModelSuite):
    family = "resnet"
    # What the others are made of; all of them are counted below.
    names = ("resnet18d", "seresnext26d_32x4d", "ecaresnetlight", "skresnet18", "resnet18_ibn_b")
    small = (
        ModelCase(
            "seresnet50t",
            {**TINY, "stem_dims": (3, 4), "groups": 2, "base_width": 32},
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )


def test_every_published_size_has_its_exact_count():
    kinds = {}
    for name in list_models(family="resnet"):
        info, model = model_info(name), create_model(name)
        # Sizes of one kind differ in how often a stage repeats the block between first and last.
        kind = model.clone(depths=(3,) * 4)
        if kind not in kinds:
            variables = jax.eval_shape(kind.init, jax.random.key(0), info.example())
            params = variables["params"]
            repeated = [count(params[f"stage{stage}_block_00"]) for stage in range(4)]
            kinds[kind] = count(params), np.array(repeated)
        whole, repeated = kinds[kind]
        assert whole + (np.array(model.depths) - 3) @ repeated == info.params, name


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_gates_cost_what_their_papers_say():
    plain, gated = (default_multiply_adds(name) / 1e9 for name in ("resnet50", "seresnet50"))
    # torchvision's figure; Squeeze-and-Excitation has 3.86 and 3.87 with strides in the 1x1s.
    assert plain == pytest.approx(4.09, abs=0.005)
    assert 1 < gated / plain < 1.01
    params = {name: model_info(name).params for name in list_models(family="resnet")}
    assert params["seresnet50"] - params["resnet50"] == 2_530_992
    # A kernel of three or five weights a block.
    assert params["ecaresnet50d"] - params["resnet50d"] == 86


def small(**fields):
    model = create_model("resnet18", **{**TINY, "depths": (1, 1), **fields})
    images = jax.random.normal(jax.random.key(1), (16, 12, 12, 3))
    images += jnp.arange(16.0)[:, None, None, None] / 4
    return model, jax.jit(model.init)(jax.random.key(0), images[:1]), images


def train(model):
    return jax.jit(lambda variables, x: model.apply(variables, x, True, mutable=["batch_stats"]))


def test_statistics_are_those_of_the_whole_batch_on_every_mesh():
    model, variables, images = small()
    expected = train(model)(variables, images)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    actual = train(model)(jax.device_put(variables, whole), jax.device_put(images, spread))
    compare.assert_relative(jax.device_get(actual), jax.device_get(expected), 1e-5)
    # The images of one device have other statistics.
    alone = train(model)(variables, images[:2])[1]["batch_stats"]["stem0"]["norm"]["mean"]
    assert np.abs(alone - expected[1]["batch_stats"]["stem0"]["norm"]["mean"]).max() > 1e-3


def test_frozen_statistics_stay_and_normalise_in_training():
    model, variables, images = small(frozen_statistics=True)
    logits, after = train(model)(variables, images)
    chex.assert_trees_all_equal(after["batch_stats"], variables["batch_stats"])
    compare.assert_relative(logits, jax.jit(model.apply)(variables, images), 1e-6)
    moved = train(model.clone(frozen_statistics=False))(variables, images)[1]
    assert jnp.any(moved["batch_stats"]["stem0"]["norm"]["mean"] != 0)


def test_momentum_is_of_the_old_average():
    model, variables, images = small()
    _, slow = train(model)(variables, images)
    _, fast = train(model.clone(norm_momentum=0.5))(variables, images)
    slow, fast = (tree["batch_stats"]["stem0"]["norm"]["mean"] for tree in (slow, fast))
    compare.assert_relative(fast, 5 * slow, 1e-5)


def test_a_branch_starts_as_nothing():
    _, variables, _ = small()
    scale = variables["params"]["stage1_first_00"]["conv2"]["norm"]["scale"]
    assert not np.any(scale.unbox())


@pytest.mark.parametrize("fields", [{"ibn": ("a", "b")}, {"norm_layer": "evonorm_b0"}])
def test_other_norms_train_and_keep_what_they_need(fields):
    model, variables, images = small(**fields)
    logits, after = train(model)(variables, images)
    assert np.isfinite(logits).all()
    kept = jax.tree.map(jnp.shape, after["batch_stats"])
    if "ibn" in fields:
        # Half of the first norm's channels, none of the norm of the sum.
        assert kept["stage0_first_00"]["conv1"]["norm"] == {"mean": (2,), "variance": (2,)}
        assert "norm" not in kept["stage1_first_00"]
        assert kept["stem0"]["norm"]["mean"] == (64,)
        return
    # A running variance and no mean; where nothing bends nothing is kept.
    assert kept["stage0_first_00"]["conv1"]["norm"] == {"variance": (4,)}
    assert "conv2" not in kept["stage0_first_00"]


def test_evonorm_of_images_knows_no_batch():
    model, variables, images = small(norm_layer="evonorm_s0")
    assert "batch_stats" not in variables
    whole = jax.jit(model.apply)(variables, images)
    compare.assert_relative(jax.jit(model.apply)(variables, images[:2]), whole[:2], 1e-5)
    # Two are computed alike in training, where a batch norm would see the others.
    trained = jax.jit(lambda v, x: model.apply(v, x, True))(variables, images[:2])
    compare.assert_relative(trained, whole[:2], 1e-5)


def test_an_instance_normed_image_may_be_lit_otherwise():
    """IBN-b norms the stem by the image itself: what scales it scales nothing behind."""
    model, variables, images = small(ibn=("b", None))
    run = jax.jit(model.apply)
    dark = run(variables, images[:2])
    compare.assert_relative(run(variables, 3.0 * images[:2]), dark, 1e-3)
    plain, others, _ = small()
    run = jax.jit(plain.apply)
    assert np.abs(run(others, 3.0 * images[:2]) - run(others, images[:2])).max() > 0.1


def test_norms_that_cannot_be_are_told():
    with pytest.raises(UserError, match="unknown norm_layer 'evonorm_s3'; did you mean"):
        small(norm_layer="evonorm_s3")
    with pytest.raises(UserError, match=r"ibn=.* must say 'a', 'b' or None of each stage"):
        small(ibn=("a",))
    with pytest.raises(UserError, match="selective_kernel= has batch norms"):
        small(selective_kernel={}, norm_layer="evonorm_b0")


def test_stages_must_agree():
    model, images = create_model("resnet18", dims=(4, 8), depths=(1,)), jnp.zeros((1, 32, 32, 3))
    with pytest.raises(UserError, match="as many stages"):
        jax.eval_shape(model.init, jax.random.key(0), images)
