"""VSSD: the suite of every model, and batch statistics."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from golden import seeded

from scanmax import ops
from scanmax.models import create_model
from scanmax.testing import ModelCase, ModelSuite
from scanmax.testing.model_suite import COMPILER_OPTIONS


class VssdSuite(ModelSuite):
    family = "vssd"
    small = (
        ModelCase(
            "vssd_micro",
            # Two stages hold every part; four only compile for longer.
            {
                "num_classes": 10,
                "dims": (8, 16),
                "depths": (2, 1),
                "heads": (2, 4),
                "mixer": ("nc_ssd", "attention"),
                "state_size": 8,
            },
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (17, 22, 3)),
        ),
    )


class BatchStatisticsTest(chex.TestCase):
    def test_training_moves_the_averages_towards_the_batch(self):
        fields = {"dims": (8,), "depths": (1,), "heads": (2,), "mixer": "attention"}
        model = create_model("vssd_micro", num_classes=10, **fields)
        variables = seeded.seeded_variables(model, (64, 64, 3))
        images, _ = seeded.seeded_images((64, 64, 3), (10,))
        train = lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[1]  # noqa: E731
        updates = jax.jit(train, compiler_options=COMPILER_OPTIONS)(variables, images)
        chex.assert_trees_all_equal_shapes(updates["batch_stats"], variables["batch_stats"])
        # The stem's first convolution sees the images alone: its statistics are known.
        kernel = jnp.asarray(variables["params"]["stem0"]["kernel"])
        maps = ops.conv2d(jnp.asarray(images), kernel, stride=2, padding=((1, 1), (1, 1)))
        old = variables["batch_stats"]["stem0_norm"]
        new = updates["batch_stats"]["stem0_norm"]
        mean = 0.9 * old["mean"] + 0.1 * maps.mean((0, 1, 2))
        variance = 0.9 * old["variance"] + 0.1 * maps.var((0, 1, 2))
        np.testing.assert_allclose(new["mean"], mean, rtol=1e-4, atol=1e-6)
        # Biased or unbiased: with 2048 places per channel the third digit of a tenth.
        np.testing.assert_allclose(new["variance"], variance, rtol=1e-3)
