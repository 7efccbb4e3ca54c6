"""Two networks that learn of each other, against the equation as a loop; partners by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallImages, SmallNet
from scanmax.train.build import build
from scanmax.train.config import Config, ObjectiveConfig


class MutualSuite(ObjectiveSuite):
    """Each hears the other."""

    fields = {
        "objective": ObjectiveConfig(
            name="mutual",
            weight=0.7,
            kwargs={"mutual": 1.5, "temperature": 2.0},
        )
    }
    frozen = ("head_dist",)
    selective = False

    def reference(self, variables, batch, teachers):
        params, total = variables["params"], 0.0
        model = self.model.clone(dtype=jnp.float64)
        logits = [
            model.apply({"params": params[each]}, batch["image"]) for each in ("model", "peer")
        ]
        for row in np.flatnonzero(batch["mask"]):
            label, losses, soft = batch["label"][row], [], []
            for x in logits:
                losses.append(jnp.log(jnp.exp(x[row]).sum()) - x[row, label])
                soft.append(jnp.exp(x[row] / 2) / jnp.exp(x[row] / 2).sum())
            total += 0.7 * sum(losses)
            for own, other in ((0, 1), (1, 0)):
                if self.selective and losses[own] <= losses[other]:
                    continue
                heard = jax.lax.stop_gradient(soft[other])
                total += 1.5 * 4 * (heard * jnp.log(heard / soft[own])).sum()
        return total / batch["mask"].sum()


class SelectiveSuite(MutualSuite):
    """The one that is worse at an example hears the other."""

    fields = {
        "objective": ObjectiveConfig(
            name="mutual",
            weight=0.7,
            kwargs={**MutualSuite.fields["objective"].kwargs, "selective": True},
        )
    }
    selective = True


def build_mutual(**fields):
    kwargs = fields.pop("kwargs", {})
    config = Config(objective=ObjectiveConfig(name="mutual", kwargs=kwargs, **fields))
    config.batch_size = 16
    return build(config, pipeline=SmallImages(16), model=SmallNet())


def test_partners_by_name_or_like_the_model_start_elsewhere():
    run = build_mutual()
    state = run.init(None)
    own, other = (state.params[name]["embed"]["kernel"] for name in ("model", "peer"))
    assert own.shape == other.shape
    assert not np.allclose(own, other)
    fields = {"img_size": 2, "patch_size": 1, "dim": 8, "depth": 1, "heads": 1}
    run = build_mutual(kwargs={"partner": ("deit_tiny_patch16_224", fields)})
    assert type(run.objective.made()).__name__ == "VisionTransformer"
    assert run.objective.made().num_classes == run.objective.classes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"terms": ("kd",)}, "it takes no terms, teachers or relabel"),
        ({"kwargs": {"partner": ("resnet18",)}}, "must be a name, or a pair"),
        ({"kwargs": {"partner": "resnet81"}}, "resnet18"),
        ({"kwargs": {"partner": "lm_tiny"}}, "'lm_tiny' reads no images"),
        ({"kwargs": {"partner": ("resnet18", {"dimms": 3})}}, "'resnet18' has no field 'dimms'"),
    ],
)
def test_mistakes_are_one_line(fields, message):
    with pytest.raises(UserError, match=message):
        build_mutual(**fields)
