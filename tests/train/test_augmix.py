"""AugMix's objective against its equation as a loop, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallImages, SmallNet
from scanmax.train.build import build
from scanmax.train.config import Config, ObjectiveConfig


class AugMixSuite(ObjectiveSuite):
    fields = {"objective": ObjectiveConfig(name="augmix", kwargs={"consistency": 3.0})}
    views = 3
    frozen = ("head_dist",)

    def reference(self, variables, batch, teachers):
        model = self.model.clone(dtype=jnp.float64)
        params = {"params": variables["params"]["model"]}
        logits = [model.apply(params, batch["image"][:, view]) for view in range(3)]
        total = 0.0
        for row in np.flatnonzero(batch["mask"]):
            shares = [jnp.exp(x[row]) / jnp.exp(x[row]).sum() for x in logits]
            mean = sum(shares) / 3
            total -= jnp.log(shares[0][batch["label"][row]])
            total += 3 * sum((p * jnp.log(p / mean)).sum() for p in shares) / 3
        return total / batch["mask"].sum()


@pytest.mark.parametrize(
    ("views", "fields", "message"),
    [
        (1, {}, "reads 3 views of each image: set config.data.augment.views=3"),
        (3, {"terms": ("kd",)}, "it takes no terms, teachers or relabel"),
    ],
)
def test_mistakes_are_one_line(views, fields, message):
    config = Config(objective=ObjectiveConfig(name="augmix", **fields), batch_size=16)
    with pytest.raises(UserError, match=message):
        build(config, pipeline=SmallImages(16, views), model=SmallNet())
