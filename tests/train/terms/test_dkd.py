"""DKD against its two parts as loops; where it is plain distillation; what stands for a label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallNet
from scanmax.train.config import ObjectiveConfig
from scanmax.train.losses import soft_distillation
from scanmax.train.teachers import Told
from scanmax.train.terms import TERMS
from scanmax.train.terms.dkd import Dkd

OPTIONS = {"alpha": 0.5, "beta": 3.0, "temperature": 2.0}


def divergence(p, q):
    return sum(a * jnp.log(a / b) for a, b in zip(p, q))


def dkd(student, teacher, label, alpha, beta, temperature):
    """One example: the label's class against the rest, and the rest among themselves."""
    p, q = (jnp.exp(logits / temperature) for logits in (teacher, student))
    p, q = p / p.sum(), q / q.sum()
    others = [j for j in range(len(p)) if j != label]
    target = divergence((p[label], 1 - p[label]), (q[label], 1 - q[label]))
    rest = divergence(
        [p[j] / (1 - p[label]) for j in others], [q[j] / (1 - q[label]) for j in others]
    )
    return temperature**2 * (alpha * target + beta * rest)


class DkdSuite(ObjectiveSuite):
    """Beside half of the label's loss, with a head of its own."""

    terms = (("dkd", {"weight": 0.25, **OPTIONS}),)
    fields = {"objective": ObjectiveConfig(weight=0.5, terms=terms)}
    model = SmallNet(two_heads=True)
    teacher = SmallNet(width=6)

    def reference(self, variables, batch, teachers):
        model = self.model.clone(dtype=jnp.float64)
        params = {"params": variables["params"]["model"]}
        heads = model.apply(params, batch["image"], train=True)
        teacher = self.teacher.clone(dtype=jnp.float64).apply(teachers[0], batch["image"])
        total = 0.0
        for row in np.flatnonzero(batch["mask"]):
            label = int(batch["label"][row])
            logits = heads[0][row]
            total += 0.5 * (jnp.log(jnp.exp(logits).sum()) - logits[label])
            total += 0.25 * dkd(heads[1][row], teacher[row], label, **OPTIONS)
        return total / batch["mask"].sum()


def told(seed, scale=3.0, dtype=np.float32):
    return Told(jnp.asarray(scale * np.random.default_rng(seed).normal(size=(6, 5)), dtype), {})


def test_its_parts_make_up_plain_distillation():
    student, teacher = told(0), told(1)
    label = jnp.array([0, 1, 2, 3, 4, 0])
    target = Dkd(alpha=1.0, beta=0.0, temperature=2.0)(student, teacher, {"label": label})
    rest = Dkd(alpha=0.0, beta=1.0, temperature=2.0)(student, teacher, {"label": label})
    sure = jax.nn.softmax(teacher.logits / 2)[jnp.arange(6), label]
    plain = soft_distillation(student.logits, teacher.logits, temperature=2.0)
    np.testing.assert_allclose(target + (1 - sure) * rest, plain, rtol=1e-4)
    assert not np.allclose(target + rest, plain, rtol=0.1)


def test_a_mixed_label_stands_for_its_heaviest_class():
    student, teacher = told(0), told(1)
    label = jnp.array([0, 1, 2, 3, 4, 0])
    mixed = 0.6 * jax.nn.one_hot(label, 5) + 0.4 * jax.nn.one_hot((label + 1) % 5, 5)
    whole = Dkd()(student, teacher, {"label": label})
    np.testing.assert_array_equal(Dkd()(student, teacher, {"label": mixed}), whole)


def test_logits_of_any_size_have_gradients():
    teacher, label = told(1, 1e4), {"label": jnp.zeros(6, jnp.int32)}
    slope = jax.grad(lambda x: Dkd()(Told(x, {}), teacher, label).sum())(told(0, 1e4).logits)
    assert np.isfinite(slope).all()
    half = told(0, dtype=jnp.bfloat16)
    assert Dkd()(half, told(1), label).dtype == jnp.float32


@pytest.mark.parametrize("name", ["dkd", "nd_loss_kd"])
def test_data_without_labels_are_one_line(name):
    features = {"pre_logits": jnp.ones((6, 3))}
    student, teacher = told(0)._replace(taps=features), told(1)._replace(taps=features)
    with pytest.raises(UserError, match=f"{name}' needs a label .* hold mask, tokens"):
        TERMS[name](name=name).init_with_output(
            jax.random.key(0), student, teacher, {"tokens": label_free(), "mask": label_free()}
        )


def label_free():
    return jnp.ones((6,), jnp.int32)
