"""Terms of distillation and AugMix's loss against those of torchdistill and timm, gradients too."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from scanmax.train.losses import LOSSES
from scanmax.train.objectives.augmix import jensen_shannon
from scanmax.train.teachers import Told
from scanmax.train.terms import TERMS
from scanmax.train.terms.selective_fusion import hierarchical

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
ROWS, CLASSES = 6, 5
LOGITS, TOLD = 2 * RNG.normal(size=(2, ROWS, CLASSES))
VECTORS, TOLD_VECTORS = RNG.normal(size=(ROWS, 8)), RNG.normal(size=(ROWS, 10))
MAPS, TOLD_MAPS = RNG.normal(size=(ROWS, 5, 5, 8)), RNG.normal(size=(ROWS, 5, 5, 10))
TAPS = {"student_tap": "tap", "teacher_tap": "tap"}
PATHS = ("tap", "output", "tap", "output")


def theirs(name, *args, **options):
    from torchdistill.losses import mid_level

    return getattr(mid_level, name)(*args, **options)


def attention():
    side = {"path": "tap", "io": "output"}
    return theirs("ATLoss", {"pair": {"student": side, "teacher": side}})


def congruence():
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 3}
    loss = theirs("CCKDLoss", "tap", "tap", kernel, "none")
    unit = torch.nn.functional.normalize

    def squared(*taps):
        # Theirs is the norm of the difference of the kernels, of vectors that come in of norm 1.
        return loss(*({"tap": {"output": unit(x["tap"]["output"])}} for x in taps)) ** 2 / ROWS**2

    return squared


def similarity():
    loss = theirs("SPKDLoss", "tap", "tap", "batchmean")
    # Theirs asks normalize(x, 1), which divides rows by sums of sizes; the paper's are of norm 1.
    loss.matmul_and_normalize = lambda z: torch.nn.functional.normalize(z @ z.T, dim=1)
    return loss


CASES = {
    "kd": (
        "kd", {"temperature": 3.0}, (LOGITS, TOLD),
        lambda: scaled(theirs("KDLoss", *PATHS, temperature=3.0, alpha=0.0), 9),
    ),
    "standardised": (
        "kd", {"temperature": 2.0, "standardize": True}, (LOGITS, TOLD),
        lambda: scaled(theirs("LogitStdKDLoss", *PATHS, temperature=2.0, alpha=0.0), 4),
    ),
    "dist": (
        "dist", {"beta": 2.0, "gamma": 0.5, "temperature": 2.0}, (LOGITS, TOLD),
        lambda: theirs("DISTLoss", *PATHS, beta=2.0, gamma=0.5, tau=2.0),
    ),
    "rkd": (
        "rkd", {"distance": 3.0, "angle": 2.0, **TAPS}, (VECTORS, TOLD_VECTORS),
        lambda: theirs("RKDLoss", "tap", "tap", 3.0, 2.0, "mean"),
    ),
    "similarity": (
        "similarity", TAPS, (VECTORS, TOLD_VECTORS),
        similarity,
    ),
    "congruence": (
        "congruence", {"order": 3, **TAPS}, (VECTORS, TOLD_VECTORS), congruence,
    ),
    "attention_transfer": (
        "attention_transfer", TAPS, (MAPS, TOLD_MAPS), attention,
    ),
}  # fmt: skip


def scaled(loss, factor):
    return lambda *taps: factor * loss(*taps)


def compare(ours, make_theirs, own, told):
    """Value and gradient, in float64."""
    with jax.enable_x64(True):
        value, slope = jax.value_and_grad(ours)(jnp.asarray(own), jnp.asarray(told))
    axes = (0, 3, 1, 2) if own.ndim == 4 else (0, 1)
    tensors = [torch.tensor(x.transpose(axes)) for x in (own, told)]
    tensors[0].requires_grad_(True)
    expected = make_theirs()(*tensors)
    expected.backward()
    np.testing.assert_allclose(float(value), expected.item(), rtol=1e-6)
    theirs = tensors[0].grad.permute((0, 2, 3, 1)) if own.ndim == 4 else tensors[0].grad
    np.testing.assert_allclose(slope, theirs, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_terms_are_those_of_torchdistill(peers, case):
    del peers
    name, options, arrays, make = CASES[case]

    def ours(own, told):
        student, teacher = Told(own, {"tap": own}), Told(told, {"tap": told})
        return TERMS[name](**options)(student, teacher, {"mask": jnp.ones(ROWS, bool)}).mean()

    def make_theirs():
        loss = make()
        return lambda *both: loss(*({"tap": {"output": x}} for x in both))

    compare(ours, make_theirs, *arrays)


def test_hierarchical_squares_are_those_of_torchdistill(peers):
    """Five places a side, which four cells do not divide."""
    del peers
    pair = MAPS, TOLD_MAPS[..., :8]

    def make_theirs():
        loss = theirs("HierarchicalContextLoss", *PATHS)
        return lambda x, y: loss({"tap": {"output": (x, None)}}, {"tap": {"output": y}})

    compare(lambda own, told: hierarchical(own, told).mean(), make_theirs, *pair)


def test_the_divergence_of_views_is_timms(peers):
    del peers
    from timm.loss import JsdCrossEntropy

    views = 2 * RNG.normal(size=(ROWS, 3, CLASSES))
    labels = RNG.integers(0, CLASSES, ROWS)
    with jax.enable_x64(True):
        x = jnp.asarray(views)
        smoothed = LOSSES["softmax_cross_entropy"]()(x[:, 0], labels, label_smoothing=0.1)
        ours = smoothed.mean() + 12 * jensen_shannon(x).mean()
    flat = torch.tensor(views.transpose(1, 0, 2).reshape(-1, CLASSES))
    expected = JsdCrossEntropy(num_splits=3, alpha=12, smoothing=0.1)(
        flat, torch.tensor(labels).repeat(3)
    )
    assert math.isclose(float(ours), expected.item(), rel_tol=1e-6)
