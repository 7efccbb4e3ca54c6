"""Labels of mixed images by attention: against loops, in their limits, and without a gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scanmax.errors import UserError
from scanmax.models.registry import create_model
from scanmax.testing import SmallImages, SmallNet
from scanmax.train.build import build
from scanmax.train.config import Config, ObjectiveConfig
from scanmax.train.objectives.classification import Classification
from scanmax.train.relabels import RELABELS
from scanmax.train.relabels.base import Mixed

RNG = np.random.default_rng(0)
# 4 x 4 images of 2 x 2 patches, mixed in halves of patches too.
MASK = RNG.integers(0, 2, (4, 4, 4)).astype(np.float32)


def vit(**fields):
    fields = {"img_size": 4, "patch_size": 2, "dim": 8, "heads": 2, "depth": 2} | fields
    return create_model("deit_tiny_patch16_224", num_classes=4, **fields)


def run_of(relabel, model, mix=("cutmix",)):
    own = ObjectiveConfig(kwargs={"relabel": relabel})
    config = Config(objective=own, mix=mix, batch_size=16)
    return build(config, pipeline=SmallImages(), model=model)


def mixed_batch():
    given = next(SmallImages().train_iterator())
    one_hot = np.eye(4, dtype=np.float32)[given["label"][:4]]
    weight = MASK.mean((1, 2))
    own, other = one_hot, one_hot[::-1]
    return {
        "image": given["image"][:4],
        "mask": np.ones(4, bool),
        "mix_mask": MASK,
        "mix_weight": weight,
        "mix_labels": np.stack([own, other], 1),
        "label": weight[:, None] * own + (1 - weight[:, None]) * other,
    }


def expected_share(name, row, attention, prefix, reads_first, logits, label):
    """Of one row, from attention [depth, heads, T, T]."""
    area = MASK[row].mean()
    own = [area] * prefix
    own += [MASK[row, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() for y in (0, 1) for x in (0, 1)]
    own = np.asarray(own)
    if name == "tl_align":
        for heads in attention:
            own = (heads.mean(0) @ own + own) / 2
        return own[0] if reads_first else own[prefix:].mean()
    last = attention[-1].mean(0)
    row_of = last[0] if reads_first else last[prefix:].mean(0)
    seen = sum(row_of[prefix:] * own[prefix:]) / sum(row_of[prefix:])
    trust = 0.5
    if name == "mixpro":
        said = np.exp(logits) / np.exp(logits).sum()
        trust = said @ label / np.sqrt((said @ said) * (label @ label))
    return trust * seen + (1 - trust) * area


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("transmix", {"depth": 1}),
        ("mixpro", {"depth": 1, "class_token": False, "pool": "avg"}),
        ("tl_align", {"reg_tokens": 1, "scan_layers": True}),
    ],
)
def test_labels_follow_the_attention_of_the_same_pass_and_carry_no_gradient(name, fields):
    model, batch = vit(**fields), mixed_batch()
    objective = Classification(model=model, config=ObjectiveConfig(), relabel=name)
    params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), batch["image"]))["params"]
    # Larger weights attend to some tokens more than to others.
    variables = {"model": jax.tree.map(lambda x: 4 * x, params)}

    def ours(params):
        found, sown = objective.apply(
            {"params": params}, batch, train=True, mutable=["intermediates"]
        )
        return found.values["label"].mean(), (found.outputs, sown)

    def loop(params, labels):
        logits = model.apply({"params": params["model"]}, batch["image"])
        return -(labels * jax.nn.log_softmax(logits)).sum(-1).mean()

    (value, (logits, sown)), slope = jax.jit(jax.value_and_grad(ours, has_aux=True))(variables)
    leaves = [
        np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_leaves_with_path(sown)
        if "attention" in jax.tree_util.keystr(path)
    ]
    attention = leaves[0] if fields.get("scan_layers") else np.stack(leaves)
    prefix = model.prefix_tokens
    shares = [
        expected_share(
            name, row, attention[:, row], prefix, model.pool == "token", logits[row],
            batch["label"][row],
        )
        for row in range(4)
    ]  # fmt: skip
    assert np.abs(np.asarray(shares) - batch["mix_weight"]).max() > 1e-3
    shares = np.asarray(shares)[:, None]
    labels = shares * batch["mix_labels"][:, 0] + (1 - shares) * batch["mix_labels"][:, 1]
    expected, by_loop = jax.jit(jax.value_and_grad(loop))(variables, jnp.asarray(labels, "float32"))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for left, right in zip(jax.tree.leaves(slope), jax.tree.leaves(by_loop)):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def mixed(attention, logits=None):
    """Three patches behind a class token, of which the first is one's own."""
    own = np.asarray([[1 / 3, 1.0, 0.0, 0.0]], np.float32)
    label = np.asarray([[1 / 3, 2 / 3]], np.float32)
    logits = np.zeros((1, 2), np.float32) if logits is None else logits
    attention = tuple(np.asarray(each, np.float32)[None] for each in attention)
    return Mixed(own, 1, True, attention, own[:, 0], label, logits)


def test_limits_leave_the_label_of_the_area():
    uniform, identity = np.full((4, 4), 1 / 4), np.eye(4)
    turned = np.eye(4)[[1, 2, 3, 0]]
    for name, attention in (("transmix", uniform), ("mixpro", uniform), ("tl_align", uniform)):
        np.testing.assert_allclose(RELABELS[name]().share(mixed([attention])), 1 / 3, rtol=1e-6)
    still = RELABELS["tl_align"]().share(mixed([identity, identity]))
    np.testing.assert_allclose(still, 1 / 3, rtol=1e-6)
    # The class token attends to its own patch alone.
    np.testing.assert_allclose(RELABELS["transmix"](ratio=0.0).share(mixed([turned])), 1 / 3)
    np.testing.assert_allclose(RELABELS["transmix"](ratio=1.0).share(mixed([turned])), 1)
    np.testing.assert_allclose(RELABELS["tl_align"]().share(mixed([turned])), 2 / 3, rtol=1e-6)
    # What is said with certainty and is right counts more than what is not.
    shares = [
        float(RELABELS["mixpro"]().share(mixed([turned], np.asarray([[0.0, logit]])))[0])
        for logit in (-20.0, 0.0, np.log(2))
    ]
    assert shares == sorted(shares)
    np.testing.assert_allclose(shares[-1], 1, rtol=1e-6)


def test_mistakes_are_one_line():
    for relabel, mix, expected in (
        ("transmx", ("cutmix",), "did you mean 'transmix'"),
        (("transmix", {"ratio": 2.0}), ("cutmix",), "ratio=2.0 must be in"),
        ("transmix", (), "relabel is of mixed images: set config.mix"),
        ("transmix", ("cutout",), "relabel is of mixed images: set config.mix"),
    ):
        with pytest.raises(UserError, match=expected):
            run_of(relabel, SmallNet(), mix)
    run = run_of("transmix", SmallNet())
    with pytest.raises(UserError, match="which SmallNet does not give"):
        jax.eval_shape(run.train_step, run.shapes, run.pipeline.train_spec, ())
