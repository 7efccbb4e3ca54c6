"""ViM2: the suite of every model, and the weighted sums between its mixers."""

import jax
import jax.numpy as jnp
import numpy as np

from scanmax.models.vision.mambamixer import MixerStage
from scanmax.testing import ModelCase, ModelSuite


class MambaMixerSuite(ModelSuite):
    family = "mambamixer"
    traces_scanned = False
    small = (
        ModelCase(
            "vim2_tiny",
            {
                "num_classes": 5,
                "dims": (4, 8),
                "depths": (1, 1),
                "token_mixers": (1, 2),
                "channel_mixers": (1, 1),
                "heads": (1, 1),
                "mixer_options": {name: {"d_state": 2} for name in ("mamba_four_way",)},
            },
            input_size=(16, 16, 3),
            other_inputs=((24, 16, 3), (40, 20, 3)),
        ),
    )


def test_each_mixer_reads_the_weighted_outputs_before_it():
    stage = MixerStage(("attention",) * 3, heads=1)
    x = jax.random.normal(jax.random.key(0), (1, 5, 4))
    variables = jax.tree.map(jnp.asarray, stage.init(jax.random.key(1), x, grid=(1, 5)))
    params = jax.tree.map(
        lambda leaf: leaf.value, variables["params"], is_leaf=lambda leaf: hasattr(leaf, "names")
    )
    np.testing.assert_array_equal(params["weights_02"], [0, 0, 1])

    def run(params):
        return stage.apply({"params": params}, x, grid=(1, 5))

    # With weight on the stage's input alone, what lies between does not matter.
    params["weights_02"] = jnp.array([1.0, 0, 0])
    skipped = run(params)
    changed = jax.tree.map(lambda leaf: leaf + 1, params["mixer_01"])
    np.testing.assert_array_equal(run({**params, "mixer_01": changed}), skipped)
    params["weights_02"] = jnp.array([1.0, 0, 0.5])
    assert float(jnp.abs(run({**params, "mixer_01": changed}) - run(params)).max()) > 1e-3
