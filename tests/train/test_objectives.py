"""Level 9: classification with one head and two, with and without a teacher."""

import jax.numpy as jnp

from scanmax.testing import ObjectiveSuite, SmallNet
from scanmax.train.config import ObjectiveConfig


def logarithms(logits):
    """log softmax of one row, by its definition."""
    total = sum(jnp.exp(value) for value in logits)
    return [jnp.log(jnp.exp(value) / total) for value in logits]


def cross_entropy(logits, label, smoothing):
    """-sum_c p_c log softmax(logits)_c with p = (1 - e) onehot + e / C."""
    rows = logarithms(logits)
    shares = [smoothing / len(rows) + (1 - smoothing) * (label == c) for c in range(len(rows))]
    return -sum(share * row for share, row in zip(shares, rows))


def mean_over(batch, value_of):
    """The mean of value_of(row) over the rows that count."""
    kept = [row for row in range(len(batch["label"])) if batch["mask"][row]]
    return sum(value_of(row) for row in kept) / len(kept)


class ClassificationSuite(ObjectiveSuite):
    fields = {"objective": ObjectiveConfig(label_smoothing=0.1)}
    frozen = ("head_dist",)

    def reference(self, variables, batch, teachers):
        model = self.model.clone(dtype=jnp.float64)
        logits = model.apply({"params": variables["params"]["model"]}, batch["image"], train=True)
        return mean_over(
            batch, lambda row: cross_entropy(logits[row], int(batch["label"][row]), 0.1)
        )


class TwoHeadsSuite(ObjectiveSuite):
    """The label teaches one head, the teacher's decision the other."""

    fields = {"objective": ObjectiveConfig(weight=0.75, terms=(("hard", {"weight": 0.25}),))}
    model = SmallNet(two_heads=True)
    teacher = SmallNet(width=6)

    def reference(self, variables, batch, teachers):
        model = self.model.clone(dtype=jnp.float64)
        own, other = model.apply(
            {"params": variables["params"]["model"]}, batch["image"], train=True
        )
        taught = self.teacher.clone(dtype=jnp.float64).apply(teachers[0], batch["image"])

        def value_of(row):
            label, said = batch["label"][row], jnp.argmax(taught[row])
            return 0.75 * cross_entropy(own[row], label, 0) + 0.25 * cross_entropy(
                other[row], said, 0
            )

        return mean_over(batch, value_of)


class KdSuite(ObjectiveSuite):
    terms = (("kd", {"weight": 0.5, "temperature": 2.0}),)
    fields = {"objective": ObjectiveConfig(weight=0.5, terms=terms)}
    teacher = SmallNet(width=6)
    frozen = ("head_dist",)

    def reference(self, variables, batch, teachers):
        model = self.model.clone(dtype=jnp.float64)
        logits = model.apply({"params": variables["params"]["model"]}, batch["image"], train=True)
        taught = self.teacher.clone(dtype=jnp.float64).apply(teachers[0], batch["image"])

        def value_of(row):
            student = logarithms([value / 2 for value in logits[row]])
            teacher = logarithms([value / 2 for value in taught[row]])
            divergence = sum(jnp.exp(t) * (t - s) for s, t in zip(student, teacher))
            label = cross_entropy(logits[row], int(batch["label"][row]), 0)
            return 0.5 * label + 0.5 * 4 * divergence

        return mean_over(batch, value_of)
