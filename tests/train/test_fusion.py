"""A fusion encoder, what trains it, and what its attention teaches two towers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_variables
from small_towers import TowersSuite

from scanmax.errors import UserError
from scanmax.models import create_model
from scanmax.models.fusion import FusionEncoder, fused, read_tokens
from scanmax.models.towers import TwoTowers
from scanmax.testing import ObjectiveSuite, SmallNet, SmallPairs
from scanmax.train.build import build
from scanmax.train.config import Config, ModelConfig, ObjectiveConfig
from scanmax.train.teachers import Told
from scanmax.train.terms.cross_attention import CrossAttention

SIZES = {"img_size": 4, "patch_size": 2, "dim": 8, "depth": 1, "heads": 2}
TEXT = {"vocab_size": 7, "dim": 8, "depth": 1, "heads": 2}
FUSION = FusionEncoder(**SIZES, vocab_size=7, text_length=4)
TAPS = {f"{name}_tap": f"{name}/block_00/mixer" for name in ("image", "text")}
TAPS["teacher_tap"] = "block_00/mixer"


def small_towers():
    image = create_model("vit_tiny_patch16_224", num_classes=0, **SIZES)
    return TwoTowers(image, create_model("lm_tiny", **TEXT), dim=6, text_length=4, init_scale=5.0)


def padded(batch):
    """Every third text is shorter."""
    batch["tokens"][::3, 2:] = 0
    batch["tokens"][::3, 1] = 5
    return batch


class CrossAttentionSuite(TowersSuite):
    terms = (("cross_attention", {"weight": 3.0, "cross": 2.0, "within": 0.5, **TAPS}),)
    fields = {"objective": ObjectiveConfig(name="clip", terms=terms)}
    model = small_towers()
    teacher = FUSION
    frozen = ()

    def batch(self, step=3, size=16):
        return padded(super().batch(step, size))

    def reference(self, variables, batch, teachers):
        wide = self.clone(self.model, dtype=jnp.float64)
        own = {"params": variables["params"]["model"]}
        given = {"tokens": batch["tokens"], "mutable": ["intermediates"]}
        pairs, seen = wide.apply(own, batch["image"], **given)
        told = FUSION.clone(dtype=jnp.float64).apply(teachers[0], batch["image"], **given)[1]
        told = told["intermediates"]["block_00"]["mixer"]["attention"][0]
        seen = {
            name: seen["intermediates"][name]["block_00"]["mixer"] for name in ("image", "text")
        }
        kept, total = np.flatnonzero(batch["mask"]), 0.0
        logits = pairs.logits[kept][:, kept]
        for rows in (logits, logits.T):
            total -= jnp.trace(jnp.log(jnp.exp(rows) / jnp.exp(rows).sum(1, keepdims=True))) / 2
        for row in kept:
            words = 2 if batch["tokens"][row, 2:].sum() == 0 else 4
            places = {"image": range(5), "text": range(5, 5 + words)}
            for name, other in (("image", "text"), ("text", "image"), *((n, n) for n in seen)):
                weight = 3.0 * (0.5 if name == other else 2.0)
                for head in range(2):
                    queries = seen[name]["queries"][0][row, : len(places[name]), head]
                    keys = seen[other]["keys"][0][row, : len(places[other]), head]
                    shares = jnp.exp(queries @ keys.T / 2)
                    shares = shares / shares.sum(1, keepdims=True)
                    aims = told[row, head][np.ix_(places[name], places[other])]
                    aims = aims / aims.sum(1, keepdims=True)
                    value = (aims * jnp.log(aims / shares)).sum()
                    total += weight * value / (2 * len(places[name]))
        return total / len(kept)


class MatchingSuite(ObjectiveSuite):
    fields = {"objective": ObjectiveConfig(name="matching", weight=0.7)}
    data = SmallPairs
    model = FUSION
    # An image alone, as it is asked at the end of that test, is nothing to a fusion encoder.
    test_a_run_continues_bit_for_bit_and_exports_the_model = None

    def batch(self, step=3, size=16):
        batch = padded(super().batch(step, size))
        # The next row that counts says the same.
        batch["tokens"][0] = batch["tokens"][2]
        return batch

    def reference(self, variables, batch, teachers):
        params = {"params": variables["params"]["model"]}
        score = FUSION.clone(dtype=jnp.float64).apply
        kept, total = list(np.flatnonzero(batch["mask"])), 0.0
        for place, row in enumerate(kept):
            image, other = batch["image"][row][None], kept[(place + 1) % len(kept)]
            own = score(params, image, tokens=batch["tokens"][row][None])[0]
            total += 0.7 * jnp.log(1 + jnp.exp(-own)) / 2
            if (batch["tokens"][other] != batch["tokens"][row]).any():
                wrong = score(params, image, tokens=batch["tokens"][other][None])[0]
                total += 0.7 * jnp.log(1 + jnp.exp(wrong)) / 2
        return total / len(kept)


def test_padding_is_read_by_none():
    images = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    long, short = jnp.asarray([[3, 0, 2, 0], [4, 1, 6, 0]]), jnp.asarray([[3, 0, 2], [4, 1, 6]])
    np.testing.assert_array_equal(read_tokens(long), [[1, 1, 1, 0], [1, 1, 1, 0]])
    variables = drawn_variables(FUSION, images)
    scores = jax.jit(lambda tokens: FUSION.apply(variables, images, tokens=tokens))
    found = scores(long)
    np.testing.assert_allclose(scores(short), found, rtol=1e-4)
    assert abs(found - scores(long.at[:, 0].set(5))).min() > 1e-3


def test_towers_that_ask_and_answer_as_the_teacher_have_nothing_to_learn():
    rng = np.random.default_rng(0)
    queries, keys = (jnp.asarray(rng.normal(size=(2, 9, 2, 4))) for _ in range(2))
    tokens = jnp.asarray([[3, 0, 2, 0], [4, 1, 6, 5]])
    reads = jnp.concatenate([jnp.ones((2, 5), bool), read_tokens(tokens)], axis=1)
    logits = jnp.einsum("bthk,bshk->bhts", queries, keys) / 2
    attention = jax.nn.softmax(jnp.where(reads[:, None, None], logits, -jnp.inf))
    parts = {"image": slice(5), "text": slice(5, 9)}
    taps = {}
    for name, part in parts.items():
        path = f"{name}/block_00/mixer"
        taps |= {f"{path}/queries": queries[:, part], f"{path}/keys": keys[:, part]}
    term = CrossAttention(within=1.0, **TAPS)
    teacher = Told(None, {"block_00/mixer/attention": attention})
    loss = term(Told(None, taps), teacher, {"tokens": tokens})
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    other = {**taps, "text/block_00/mixer/keys": 2 * keys[:, 5:]}
    assert term(Told(None, other), teacher, {"tokens": tokens}).min() > 1e-2
    told = teacher._replace(taps={"block_00/mixer/attention": attention[..., 1:, 1:]})
    with pytest.raises(UserError, match="5 and 4 tokens, and the teacher 8, which must be their"):
        term(Told(None, taps), told, {"tokens": tokens})


def test_mistakes_are_one_line():
    def refused(match, name="clip", model=None, **fields):
        own = {"name": name, "kwargs": {"text": ("lm_tiny", TEXT), "dim": 6}, **fields}
        config = Config(
            objective=ObjectiveConfig(**own),
            model=ModelConfig(name="vit_tiny_patch16_224", kwargs=SIZES),
            batch_size=16,
            duration="2 steps",
        )
        with pytest.raises(UserError, match=match):
            build(config, pipeline=SmallPairs(16), model=model, devices=jax.devices()[:1])

    def teachers(**towers):
        options = {"weights": "x", "kwargs": SIZES, "towers": {"fused": True, **towers}}
        return (("vit_tiny_patch16_224", options),)

    term = (("cross_attention", TAPS),)
    refused("towers that are fused take no option 'dim'", teachers=teachers(dim=3), terms=term)
    refused("'affinity' asks two towers, not a fusion", teachers=teachers(), terms=("affinity",))
    refused("asks two towers, not a fusion", name="text_alignment", kwargs={}, teachers=teachers())
    one = (("vit_tiny_patch16_224", {"weights": "x", "kwargs": SIZES}),)
    refused("takes no terms or teachers: it is one", name="matching", kwargs={}, teachers=one)
    refused("is made of a ViT", name="matching", kwargs={}, model=SmallNet())
    with pytest.raises(UserError, match="text_length=3, and a text has 4"):
        jax.eval_shape(
            lambda: fused(small_towers().image, 7, 3).init(
                jax.random.key(0), jnp.ones((1, 4, 4, 1)), tokens=jnp.ones((1, 4), int)
            )
        )
    averaged = {"class_token": False, "pool": "avg"}
    for fields in ({"mixer": "ssd"}, {"prompts": 2}, averaged, {"patchout": {"rows": 1}}):
        with pytest.raises(UserError, match="a fusion encoder"):
            jax.eval_shape(FUSION.clone(**fields).init, jax.random.key(0), jnp.ones((1, 4, 4, 1)))
