"""Mixed images and labels against timm's for the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from scanmax.train.losses import LOSSES
from scanmax.train.mixing.base import Mix, box_shares

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 9, 14, 3)).astype(np.float32)
LABELS = RNG.integers(0, 5, 6)


class Drawn(Mix):
    """Gives the shares of its class."""

    def own_share(self, key, shape, guide=None):
        return jnp.broadcast_to(jnp.asarray(self.shares, jnp.float32), shape)


@pytest.mark.parametrize("weight", [0.1, 0.35, 0.5, 0.77])
@pytest.mark.parametrize("centre", [None, (0, 3), (4, 7), (8, 13)])
def test_a_batch_is_mixed_as_timm_mixes_it(peers, monkeypatch, weight, centre):
    del peers
    from timm.data import mixup

    theirs = mixup.Mixup(mixup_alpha=1, cutmix_alpha=1, label_smoothing=0.1, num_classes=5)
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (weight, centre is not None))
    shares = weight
    if centre is not None:
        draws = iter(centre)
        monkeypatch.setattr(mixup.np.random, "randint", lambda *_, **__: next(draws))
        place = (np.asarray(centre) + 0.5) / (9, 14)
        shares = box_shares(jnp.asarray([weight]), jnp.asarray(place[None]), (9, 14))
    images = torch.tensor(IMAGES).permute(0, 3, 1, 2).clone()
    images, labels = theirs(images, torch.tensor(LABELS))
    mix = Drawn(classes=5)
    object.__setattr__(mix, "shares", shares)
    batch = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS, jnp.int32)}
    found = mix(jax.random.key(0), batch)
    np.testing.assert_allclose(found["image"], images.permute(0, 2, 3, 1), atol=1e-6)
    smoothed = 0.9 * found["label"] + 0.1 / 5
    np.testing.assert_allclose(smoothed, labels, atol=1e-6)
    # Smoothing mixed labels, as the trainer does, is mixing smoothed labels, as timm does.
    logits = RNG.normal(size=(6, 5)).astype(np.float32)
    ours = LOSSES["softmax_cross_entropy"]()(logits, found["label"], label_smoothing=0.1)
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), labels, reduction="none")
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
