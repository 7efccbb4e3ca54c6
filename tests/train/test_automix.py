"""Learned mixing against its equations as loops, its limits, and what it refuses."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.testing import ObjectiveSuite, SmallImages, SmallMaps, SmallNet
from scanmax.train.build import build
from scanmax.train.config import Config, ObjectiveConfig
from scanmax.train.objectives.automix import AdAutoMix, AutoMix, Drawn, MixMasks
from scanmax.train.objectives.samix import SaMix, bent, of_mean
from scanmax.train.teachers import Told

# Two places to four, as bilinear interpolation between their centres has them.
UPSAMPLED = {
    "nearest": ((1, 0), (1, 0), (0, 1), (0, 1)),
    "linear": ((1, 0), (0.75, 0.25), (0.25, 0.75), (0, 1)),
}


def shares_of(x):
    found = jnp.exp(x)
    return found / found.sum(axis=-1, keepdims=True)


def entropy(logits, label):
    return -(label * jnp.log(shares_of(logits))).sum()


def cosine(x, y):
    return x @ y / jnp.sqrt((x @ x) * (y @ y))


def attended(queries, keys, values):
    """[4] places, each a mean of the values by its own softmax."""
    return shares_of(queries @ keys.T / np.sqrt(queries.shape[1])) @ values


def upsampled(found, how):
    table = np.asarray(UPSAMPLED[how])
    return table @ found.reshape(2, 2) @ table.T


class LearnedSuite(ObjectiveSuite):
    """Images of four patches; masks are made of what these become."""

    __test__ = False
    model = SmallMaps()
    name, kwargs, joint = "", {}, False

    def __init_subclass__(cls, **given):
        # As wide as eight devices divide.
        own = {"tap": "output", "alpha": 1.5, "margin": 0.0, "reduction": 1}
        kwargs = {**own, **cls.kwargs}
        cls.fields = {"objective": ObjectiveConfig(name=cls.name, weight=0.7, kwargs=kwargs)}
        super().__init_subclass__(**given)

    def drawn(self, counts):
        """What the step that is held against the loop draws: for the masks, and for the model."""
        objective = self.plain_run().objective
        with jax.ensure_compile_time_eval():
            rngs = {"objective": jax.random.key(2)}
            key = objective.apply({}, rngs=rngs, method=lambda own: own.make_rng("objective"))
            found = objective.draw(key, jnp.asarray(counts))
            return [(np.asarray(each.index), np.asarray(each.shares)) for each in found]

    def context(self, params, maps, drawn):
        """What masks of a mixture read of the whole batch."""

    def contrast(self, masks):
        """What is gained by the first masks of all mixtures."""
        return 0.0

    def masks(self, params, maps, shares, context):
        """[4, 4] of each image of one mixture."""
        tokens = [
            jnp.concatenate([image, jnp.full((4, 1), share)], axis=1)
            for image, share in zip(maps, shares)
        ]

        def project(name, x):
            return x @ params[name]["kernel"] + params[name].get("bias", 0)

        if not self.joint:
            own, other = tokens
            queries, keys = project("query", own), project("query", other)
            found = upsampled(attended(queries, keys, project("value", other)[:, 0]), "nearest")
            return [1 - 1 / (1 + jnp.exp(-found)), 1 / (1 + jnp.exp(-found))]
        keys = [jnp.maximum(project("key", x), 0) for x in tokens]
        found = []
        for place, x in enumerate(tokens):
            others = sum(key for other, key in enumerate(keys) if other != place)
            queries = jnp.maximum(project("query", x), 0)
            attends = attended(queries, others, project("value", x)[:, 0])
            found.append(jnp.exp(upsampled(attends, "linear")))
        return [each / sum(found) for each in found]

    def said(self, params, images):
        """Logits, the maps, and features."""
        model = self.model.clone(dtype=jnp.float64)
        logits, sown = model.apply({"params": params}, images, mutable=["intermediates"])
        sown = sown["intermediates"]
        return logits, sown["output"][0], sown["pre_logits"][0]

    def reference(self, variables, batch, teachers):
        params, slow = variables["params"], variables["momentum"]["model"]
        images, labels = batch["image"], jnp.eye(4)[batch["label"]]
        told, maps, _ = self.said(slow, images)
        _, _, features = self.said(params["model"], images)
        kept = np.flatnonzero(batch["mask"])
        for_masks, for_model = self.drawn(batch["mask"])
        total, first = 0.0, []

        def mixed(drawn, row, evenly=False):
            index, shares = drawn
            rows = index[:, row]
            if evenly:
                masks = [share * jnp.ones((4, 4)) for share in shares]
            else:
                context = self.context(params["masks"], maps, drawn)
                masks = self.masks(params["masks"], [maps[each] for each in rows], shares, context)
            image = sum(mask[..., None] * images[each] for mask, each in zip(masks, rows))
            return masks, image, sum(share * labels[each] for share, each in zip(shares, rows))

        for row in kept:
            masks, image, label = mixed(for_masks, row)
            answer = self.said(slow, image[None])[0][0]
            near = [cosine(answer, told[each]) for each in for_masks[0][:, row]]
            near = sum(share * each for share, each in zip(for_masks[1], near))
            total += self.generated(entropy(answer, label), near)
            first.append(masks[0])
            _, image, label = mixed(for_model, row)
            image = jax.lax.stop_gradient(image)
            total += 0.7 * entropy(self.said(params["model"], image[None])[0][0], label)
            head = params["plain_head"]
            logits = features[row] @ head["kernel"] + head["bias"]
            own = entropy(logits, labels[row])
            if self.joint:
                _, image, label = mixed(for_model, row, evenly=True)
                own = 0.8 * own
                own += 0.2 * entropy(self.said(params["model"], image[None])[0][0], label)
            total += 0.7 * own
        apart = abs(jnp.mean(jnp.stack(first)) - for_masks[1][0])
        off = jnp.maximum(apart - 0.01, 0) - self.contrast(jnp.stack(first))
        return total / len(kept) + 3.0 * off


class AutoMixSuite(LearnedSuite):
    name = "automix"
    kwargs = {"generator": 1.5, "mask": 3.0, "slack": 0.01}
    # Of what both share AdAutoMixSuite shows these.
    test_gradient_reaches_what_learns_and_nothing_else = None
    test_eight_devices_equal_one = None
    test_a_run_continues_bit_for_bit_and_exports_the_model = None
    test_bfloat16_gives_nearly_the_same_loss = None

    def generated(self, loss, near):
        return 1.5 * loss


class AdAutoMixSuite(LearnedSuite):
    name, joint = "adautomix", True
    kwargs = {"mixup": 0.2, "beta": 0.4, "mask": 3.0, "slack": 0.01}

    def generated(self, loss, near):
        return 0.6 * near - 0.4 * loss


class SaMixSuite(LearnedSuite):
    name = "samix"
    kwargs = {"generator": 1.5, "mask": 3.0, "slack": 0.01, "variance": 1.5, "curve": 0.5}
    test_gradient_reaches_what_learns_and_nothing_else = None
    test_eight_devices_equal_one = None
    test_a_run_continues_bit_for_bit_and_exports_the_model = None
    test_bfloat16_gives_nearly_the_same_loss = None

    def generated(self, loss, near):
        return 1.5 * loss

    def contrast(self, masks):
        return 1.5 * ((masks - masks.mean()) ** 2).mean()

    def second(self, image, shares):
        """The map of the second image, brighter the less of the first there is."""
        first = np.float64(shares[0])
        bent = (4 * first**3 - 6 * first**2 + 4.5 * first) / 2.5
        return (2 - bent) * image, bent

    def context(self, params, maps, drawn):
        """Mean and deviation of the hidden values of all second images, each place by itself."""
        index, shares = drawn
        x = jnp.stack([self.second(maps[row], shares)[0] for row in index[1]])
        hidden = (x @ params["hidden"]["kernel"]).reshape(-1, x.shape[-1] // 2)
        mean = hidden.mean(axis=0)
        return mean, jnp.sqrt(((hidden - mean) ** 2).mean(axis=0) + 1e-5)

    def masks(self, params, maps, shares, context):
        mean, deviation = context
        other, bent = self.second(maps[1], shares)
        own = (1 + bent) * maps[0]
        hidden = (other @ params["hidden"]["kernel"] - mean) / deviation
        hidden = params["norm"]["scale"] * hidden + params["norm"]["bias"]
        hidden = jnp.where(hidden > 0, hidden, jnp.exp(jnp.minimum(hidden, 0)) - 1)
        values = hidden @ params["value"]["kernel"][:, 0]
        both = jnp.concatenate([own, other], axis=1)
        query, key = (both @ params[x]["kernel"] + params[x]["bias"] for x in ("query", "key"))
        found = upsampled(attended(query, key, values), "linear")
        return [1 - 1 / (1 + jnp.exp(-found)), 1 / (1 + jnp.exp(-found))]


def test_masks_are_scaled_to_the_mean_that_is_asked():
    masks = jax.random.uniform(jax.random.key(0), (2, 5, 6, 4))
    masks = jnp.stack([masks[0], 1 - masks[0]])
    for share in (0.1, 0.6, 0.95):
        found = of_mean(masks, jnp.float32(share))
        np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
        np.testing.assert_allclose(found[0].mean(axis=(1, 2)), share, atol=1e-6)
        assert found.min() >= 0
    told = {"adjust": 1.0}, {"adjust": 0.0}
    for own, expected in zip(told, (of_mean(masks, jnp.float32(0.3)), masks)):
        objective = learner(SaMix, **own)
        found = objective.apply(
            {}, masks, jnp.float32(0.3), rngs={"objective": jax.random.key(1)}, method="adjusted"
        )
        np.testing.assert_array_equal(found, expected)


def test_shares_are_bent_about_a_half():
    share = jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(bent(share, -1.0), share)
    for curve in (0.0, 0.25, 1.0):
        found = bent(share, curve)
        np.testing.assert_allclose(found + found[::-1], 1, atol=1e-6)
        np.testing.assert_allclose(found[jnp.asarray([0, -1])], (0, 1), atol=1e-6)
    # Flat about a half where the curve is 0.
    assert abs(float(jax.grad(bent)(0.5, 0.0))) < 1e-6


def learner(kind, **kwargs):
    own = {"model": SmallMaps(), "config": ObjectiveConfig(name=kind.__name__.lower())}
    return kind(**own, classes=4, tap="output", **kwargs)


def test_two_images_that_none_misleads_are_automix():
    """Where masks are even, whatever makes them; so are they where a share is near to one."""
    batch = next(SmallImages(16).train_iterator(3))
    rngs = {name: jax.random.key(4) for name in ("params", "objective", "dropout")}
    evenly = {"margin": 0.5, "alpha": 1.0, "mask": 0.0}
    found, params = [], {}
    for kind, own in ((AutoMix, {}), (AdAutoMix, {"samples": 2, "adversarial": False})):
        objective = learner(kind, **evenly, **own)
        rng = np.random.default_rng(0)
        begin = functools.partial(objective.init, train=True, mutable=True)
        shapes = nn.unbox(jax.eval_shape(begin, rngs, batch))["params"]
        drawn = jax.tree.map(lambda leaf, rng=rng: 0.3 * rng.normal(size=leaf.shape), shapes)
        params = {**jax.tree.map(np.float32, drawn), **params}
        masks = drawn["masks"]

        @jax.jit
        def values(scale, params, masks, objective=objective):
            params = {**params, "masks": jax.tree.map(lambda x: scale * jnp.float32(x), masks)}
            variables = {"params": params, "momentum": {"model": params["model"]}}
            told = objective.apply(variables, batch, True, rngs=rngs, mutable=["intermediates"])
            return told[0].values

        found += [values(scale, params, masks) for scale in (0.0, 5.0)]
    assert found[0].keys() == {"label", "mixed", "masks"}
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[2][name], rtol=1e-6)
    for even, other in (found[:2], found[2:]):
        np.testing.assert_allclose(even["mixed"], other["mixed"], rtol=1e-6)
        assert np.abs(even["masks"] - other["masks"]).max() > 1e-4


def test_masks_help_and_mislead_in_turn():
    answer, told = (Told(jax.random.normal(jax.random.key(k), (3, 4)), {}) for k in (0, 1))
    drawn = Drawn(jnp.asarray([[0, 1, 2], [2, 0, 1]]), jnp.asarray([0.25, 0.75]))
    loss = jnp.asarray([1.0, 2.0, 3.0])

    def generated(turn, **kwargs):
        own = learner(AdAutoMix, **kwargs).bind({"turn": {"count": jnp.int32(turn)}})
        return own.generated(loss, answer, told, drawn)

    near = [
        0.25 * cosine(answer.logits[row], told.logits[row])
        + 0.75 * cosine(answer.logits[row], told.logits[other])
        for row, other in enumerate((2, 0, 1))
    ]
    np.testing.assert_allclose(generated(0), 0.7 * np.asarray(near) - 0.3 * loss, rtol=1e-5)
    expected = -0.7 * np.asarray(near) - 0.3 * loss
    np.testing.assert_allclose(generated(0, keeps_meaning=True), expected, rtol=1e-5)
    np.testing.assert_array_equal(generated(1), loss)
    np.testing.assert_array_equal(generated(0, adversarial=False), loss)
    params = {"model": {"w": jnp.ones(())}}
    carried = learner(AdAutoMix).begin(params, {})
    for step in range(3):
        assert int(carried["turn"]["count"]) == step % 2
        carried = learner(AdAutoMix).after_update(params, carried, jnp.asarray(step))


@pytest.mark.parametrize("joint", [False, True])
def test_masks_sum_to_one_and_hear_the_shares(joint):
    count = 3 if joint else 2
    maps = jax.random.normal(jax.random.key(0), (count, 2, 3, 2, 5))
    shares = jnp.asarray([0.5, 0.2, 0.3][:count]) / (1 if joint else 0.7)
    module = MixMasks((7, 5), joint, reduction=2, embeds_shares=True, upsampling="linear")
    variables = module.init(jax.random.key(1), maps, jnp.ones((count, 2)))
    # As large as parameters become.
    variables = jax.tree.map(lambda x: 100 * x, variables)
    shares = jnp.repeat(shares[:, None], 2, axis=1)
    masks = module.apply(variables, maps, shares)
    assert masks.shape == (count, 2, 7, 5)
    np.testing.assert_allclose(masks.sum(axis=0), 1, rtol=1e-6)
    assert np.std(masks) > 0.1
    others = module.apply(variables, maps, shares[::-1])
    assert np.abs(masks - others).max() > 1e-3


def test_only_rows_that_count_are_mixed_and_shares_are_drawn():
    objective = learner(AdAutoMix, samples=4)
    counts = jnp.asarray([True, False, True, True, False, True])
    drawn = [each for seed in range(10) for each in objective.draw(jax.random.key(seed), counts)]
    for each in drawn:
        np.testing.assert_array_equal(each.index[0], np.arange(6))
        np.testing.assert_array_equal(np.sort(each.index, axis=1), np.tile(np.arange(6), (4, 1)))
        np.testing.assert_array_equal(each.index[:, ~counts], [[1, 4]] * 4)
        np.testing.assert_allclose(each.shares.sum(), 1, rtol=1e-6)
    assert len({tuple(each.index[1].tolist()) for each in drawn}) > 5
    assert np.std([each.shares[0] for each in drawn]) > 0.05


def test_the_copy_follows_as_a_cosine_from_a_tenth_on():
    objective = learner(AutoMix, momentum=0.9, last_momentum=1.0, total_steps=10)
    params = {"model": {"w": jnp.ones(())}}
    for step, kept in ((0, 0.9), (5, 0.95), (10, 1.0)):
        carried = {"momentum": {"model": {"w": jnp.zeros(())}}}
        moved = objective.after_update(params, carried, jnp.asarray(step))
        np.testing.assert_allclose(moved["momentum"]["model"]["w"], 1 - kept, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "model", "message"),
    [
        ({"terms": (("hint", {}),)}, SmallMaps(), "it takes no terms, teachers or relabel"),
        ({"loss": "ldam", "loss_kwargs": {"counts": (9, 9, 9, 9)}}, SmallMaps(), "mixed"),
        ({}, SmallNet(two_heads=True), "needs a model of one head"),
        ({"kwargs": {"tap": "outputs"}}, SmallMaps(), "no tap 'outputs'; did you mean 'output'"),
    ],
)
def test_mistakes_are_one_line(fields, model, message):
    fields = {"kwargs": {"tap": "output"}, **fields}
    for name in ("automix", "adautomix", "samix"):
        config = Config(objective=ObjectiveConfig(name=name, **fields), batch_size=16)
        with pytest.raises(UserError, match=message):
            build(config, pipeline=SmallImages(16), model=model)


def test_published_defaults():
    assert (AutoMix.alpha, AutoMix.margin, AutoMix.mask, AutoMix.slack) == (2.0, 0.08, 0.1, 0.1)
    assert (AdAutoMix.samples, AdAutoMix.beta, AdAutoMix.mixup, AdAutoMix.mask) == (3, 0.3, 0.5, 0)
