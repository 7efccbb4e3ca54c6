"""Losses of labels against those of timm, torchvision, torch, pytorch-metric-learning and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from scanmax.train.losses import LOSSES
from scanmax.train.objectives.class_vectors import ClassVectors

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(7, 6))
LABELS = RNG.integers(0, 6, 7)
MIXED = RNG.dirichlet([0.3] * 6, 7)
ONE_HOT = np.eye(6)[LABELS]


def of_timm(name, *args, **options):
    import timm.loss

    return getattr(timm.loss, name)(*args, **options)


def binary(smoothing=0.0, **options):
    loss = of_timm("BinaryCrossEntropy", smoothing, reduction="none", **options)
    return lambda x, y: loss(x, y) if options.get("sum_classes") else loss(x, y).mean(-1)


def focal(alpha):
    from torchvision.ops import sigmoid_focal_loss

    return lambda x, y: sigmoid_focal_loss(x, y, alpha=alpha, gamma=1.5).sum(-1)


def smoothed():
    return torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=0.2)


SIGMOID = {"gamma": 1.5, "over": "sigmoid"}
THRESHOLD = {"threshold": 0.2, "sums_classes": True}
CASES = {
    "smoothed": ("softmax_cross_entropy", {}, 0.2, LABELS, smoothed),
    "smoothed-mixed": ("softmax_cross_entropy", {}, 0.2, MIXED, smoothed),
    "timm-smoothed": (
        "softmax_cross_entropy", {}, 0.2, LABELS,
        lambda: of_timm("LabelSmoothingCrossEntropy", 0.2),
    ),
    "timm-mixed": (
        "softmax_cross_entropy", {}, 0.0, MIXED, lambda: of_timm("SoftTargetCrossEntropy"),
    ),
    "binary-smoothed": ("binary_cross_entropy", {}, 0.1, LABELS, lambda: binary(0.1)),
    "binary-mixed": ("binary_cross_entropy", {}, 0.0, MIXED, binary),
    "binary-threshold": (
        "binary_cross_entropy", THRESHOLD, 0.0, MIXED,
        lambda: binary(target_threshold=0.2, sum_classes=True),
    ),
    "focal": ("focal", SIGMOID, 0.0, ONE_HOT, lambda: focal(-1)),
    "focal-alpha": ("focal", {**SIGMOID, "alpha": 0.25}, 0.0, ONE_HOT, lambda: focal(0.25)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_loss_is_the_peers(peers, case):
    # `peers` makes timm and torchvision importable.
    del peers
    name, options, smoothing, labels, peer = CASES[case]
    x = torch.tensor(LOGITS, requires_grad=True)
    value = peer()(x, torch.tensor(labels)).mean()
    value.backward()
    with jax.enable_x64(True):
        loss = LOSSES[name](**options)
        given = jnp.asarray(labels)
        ours = jax.value_and_grad(lambda x: loss(x, given, label_smoothing=smoothing).mean())
        found, slope = ours(jnp.asarray(LOGITS))
    # timm takes the threshold's targets, and torchvision's loss its labels, in float32.
    np.testing.assert_allclose(found, value.item(), rtol=1e-6)
    np.testing.assert_allclose(slope, x.grad, rtol=1e-6, atol=1e-8)


def test_focal_over_sigmoids_is_that_of_optax():
    with jax.enable_x64(True):
        logits, labels = jnp.asarray(LOGITS), jnp.asarray(ONE_HOT)
        found = LOSSES["focal"](**SIGMOID, alpha=0.3)(logits, labels)
        expected = optax.losses.sigmoid_focal_loss(logits, labels, alpha=0.3, gamma=1.5).sum(-1)
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(("scale", "margin"), [(20.0, 0.0), (16.0, 0.35)])
def test_angles_with_learned_vectors_are_those_of_pytorch_metric_learning(peers, scale, margin):
    """Its normalised softmax and, with a margin, its CosFace."""
    del peers
    from pytorch_metric_learning import losses

    if margin:
        peer = losses.CosFaceLoss(6, 5, margin=margin, scale=scale)
    else:
        peer = losses.NormalizedSoftmaxLoss(6, 5, temperature=1 / scale)
    features, vectors = RNG.normal(size=(7, 5)), RNG.normal(size=(6, 5))
    peer = peer.double()
    peer.W.data = torch.tensor(vectors.T)
    x = torch.tensor(features, requires_grad=True)
    value = peer(x, torch.tensor(LABELS))
    value.backward()

    def ours(features, vectors):
        cosines = ClassVectors(6).apply({"params": {"vectors": vectors}}, features)
        logits = scale * (cosines - margin * jnp.asarray(ONE_HOT))
        return LOSSES["softmax_cross_entropy"]()(logits, jnp.asarray(LABELS)).mean()

    with jax.enable_x64(True):
        both = jnp.asarray(features), jnp.asarray(vectors)
        found, slopes = jax.value_and_grad(ours, (0, 1))(*both)
        np.testing.assert_allclose(found, value.item(), rtol=1e-10)
        np.testing.assert_allclose(slopes[0], x.grad, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(slopes[1], peer.W.grad.T, rtol=1e-8, atol=1e-12)
