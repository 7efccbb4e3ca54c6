"""Two towers as small as they can be, and their embeddings in the plainest way."""

import jax.numpy as jnp

from scanmax.models.towers import TwoTowers
from scanmax.testing import ObjectiveSuite, SmallNet, SmallPairs, SmallText


def two_towers(width=8, kind=TwoTowers, **fields):
    image, text = SmallNet(num_classes=0, width=width), SmallText(num_classes=0, width=width)
    return kind(image, text, **{"dim": 8, "text_length": 4, "init_scale": 5.0, **fields})


def unit(x):
    return x / jnp.sqrt(sum(x * x))


def embedded(model, params, batch):
    """The kept rows' unit vectors of images and texts."""
    found = []
    for tower, inputs in (("image", "image"), ("text", "tokens")):
        features = getattr(model, tower).apply({"params": params[tower]}, batch[inputs])
        kernel = params[f"{tower}_projection"]["kernel"]
        kept = [row for row in range(len(features)) if batch["mask"][row]]
        found.append([unit(features[row] @ kernel) for row in kept])
    return found


class TowersSuite(ObjectiveSuite):
    """Towers of a user's own."""

    __test__ = False
    data = SmallPairs
    # The networks' heads are made and not asked.
    frozen = ("image/head",)

    def clone(self, model, **fields):
        if not isinstance(model, TwoTowers):
            return model.clone(**fields)
        own = {name: getattr(model, name).clone(**fields) for name in ("image", "text")}
        return model.clone(**own, **fields)

    def embedded(self, model, params, batch):
        return embedded(self.clone(model, dtype=jnp.float64), params, batch)
