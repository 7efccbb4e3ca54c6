"""Hints against the mean of squares as a loop; what is pooled, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallNet
from scanmax.train.config import ObjectiveConfig
from scanmax.train.teachers import Told
from scanmax.train.terms.hint import Hint


class HintSuite(ObjectiveSuite):
    """From a narrower hidden layer to a wider teacher's."""

    terms = (("hint", {"weight": 0.5, "student_tap": "output", "teacher_tap": "stem"}),)
    fields = {"objective": ObjectiveConfig(terms=terms)}
    teacher = SmallNet(width=10)

    def reference(self, variables, batch, teachers):
        def ask(model, params):
            model = model.clone(dtype=jnp.float64)
            return model.apply({"params": params}, batch["image"], mutable=["intermediates"])

        logits, own = ask(self.model, variables["params"]["model"])
        _, told = ask(self.teacher, teachers[0]["params"])
        own, told = own["intermediates"]["output"][0], told["intermediates"]["stem"][0]
        projector = variables["params"]["hint"]["projector"]
        total = 0.0
        for row in np.flatnonzero(batch["mask"]):
            label = int(batch["label"][row])
            total += jnp.log(jnp.exp(logits[row]).sum()) - logits[row][label]
            for j in range(10):
                guess = own[row] @ projector["kernel"][:, j] + projector["bias"][j]
                total += 0.5 * (guess - told[row, j]) ** 2 / 10
        return total / batch["mask"].sum()


def hint(own, told, **options):
    """(values, parameters) of a hint between two arrays."""
    return Hint(name="hint", **options).init_with_output(
        jax.random.key(0), Told(None, {"pre_logits": own}), Told(None, {"pre_logits": told}), {}
    )


RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.normal(size=(3, 17, 4)), jnp.float32)
MAPS = jnp.asarray(RNG.normal(size=(3, 4, 4, 6)), jnp.float32)


def test_other_numbers_of_tokens_are_pooled_or_refused():
    with pytest.raises(UserError, match=r"17 tokens .* against 16 .* pool=True"):
        hint(TOKENS, MAPS)
    pooled, variables = hint(TOKENS, MAPS, pool=True)
    means, _ = hint(TOKENS.mean(axis=1), MAPS.mean(axis=(1, 2)))
    np.testing.assert_allclose(pooled, means, rtol=1e-5)
    kernel = variables["params"]["projector"]["kernel"]
    assert kernel.names == ("embed", None)
    assert kernel.value.shape == (4, 6)
    assert hint(TOKENS[:, 1:], MAPS)[0].shape == (3,)


def test_normalise_takes_the_teachers_scale_away():
    plain = hint(TOKENS[:, 1:], MAPS, normalise=True)[0]
    scaled = hint(TOKENS[:, 1:], 100 * MAPS + 7, normalise=True)[0]
    np.testing.assert_allclose(scaled, plain, rtol=1e-3)
    assert not np.allclose(hint(TOKENS[:, 1:], 100 * MAPS + 7)[0], plain, rtol=1)


def test_a_tap_that_is_not_there_lists_those_that_are():
    with pytest.raises(UserError, match="no tap 'pre_logit'; did you mean 'pre_logits'"):
        hint(TOKENS, MAPS, student_tap="pre_logit")
