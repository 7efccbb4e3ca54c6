"""What two small nets of unlike kinds learn of each other on 70 digits; three seeds."""

import functools
from typing import Any

from flax import linen as nn

from benchmarks.claims import claim
from benchmarks.claims.few_digits_features import (
    HELD_OUT,
    LEARNED,
    STUDENT,
    WHAT,
    Attending,
    accuracy,
    some,
    stacked,
    taught,
)
from benchmarks.claims.together import compared, learn, made
from scanmax.train.config import ObjectiveConfig
from scanmax.train.objectives.mutual import Mutual

PARTNER = Attending()


class Beside(Mutual):
    """Mutual learning with a net that attends."""

    @nn.nowrap
    def made(self) -> nn.Module:
        return PARTNER.clone()


def both(objective, variables, data):
    """The mean accuracy of the two nets, on the held-out digits."""
    batch = {"image": data["images"][HELD_OUT:], "label": data["labels"][HELD_OUT:]}
    found = objective.apply(variables, batch, method="evaluate")
    return (found["accuracy"].mean() + found["peer_accuracy"].mean()) / 2


@functools.cache
def reached(**options: Any) -> dict[str, list[float]]:
    """By the two together."""
    config = ObjectiveConfig(name="mutual", kwargs=options)
    objective = Beside(model=STUDENT, config=config, classes=10, **options)
    return learn(objective, some(LEARNED), stacked(), both).found


@claim("few-digits-mutual", paper="cnn-vit-collab-kd", by_hand=True)
def few_digits_mutual(quick):
    """A CNN and a transformer that learn of each other beat both alone; the better should teach."""
    alone = (
        taught("labels alone").found,
        learn(made("classification", PARTNER), some(LEARNED), stacked(), accuracy).found,
    )
    mean = {
        when: [(own + other) / 2 for own, other in zip(*(each[when] for each in alone))]
        for when in ("last", "best")
    }
    what = f"mean of convolutions and attention, {WHAT}"
    plain, chosen = reached(), reached(selective=True)
    return compared(what, "`mutual`", plain, {"each alone": mean}) + compared(
        what, "`mutual`, selective", chosen, {"each alone": mean, "`mutual`": plain}
    )
