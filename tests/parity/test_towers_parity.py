"""Losses of two towers against those of CLIPModel and SiglipModel of transformers, and slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from scanmax.models.towers import Pairs
from scanmax.train.objectives.contrastive import Clip, Siglip

pytestmark = pytest.mark.parity

ROWS = 5
SIDE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2}


def peer(name):
    """(model, its loss function of embeddings) with random weights."""
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    torch.manual_seed(0)
    text = {**SIDE, **HEADS, "vocab_size": 30, "max_position_embeddings": 6, "eos_token_id": 29}
    image = {**SIDE, **HEADS, "image_size": 8, "patch_size": 4}
    if name == "clip":
        both = {"text_config": text, "vision_config": image, "projection_dim": 8}
        return CLIPModel(CLIPConfig(**both)).double().eval()
    return SiglipModel(SiglipConfig(text_config=text, vision_config=image)).double().eval()


@pytest.mark.parametrize(("name", "kind"), [("clip", Clip), ("siglip", Siglip)])
def test_losses_of_the_same_embeddings(peers, name, kind):
    # `peers` makes transformers importable.
    del peers
    model = peer(name)
    with torch.no_grad():
        model.logit_scale.fill_(1.3)
        if name == "siglip":
            model.logit_bias.fill_(-2.0)
    rng = np.random.default_rng(0)
    tokens = torch.tensor(rng.integers(1, 28, (ROWS, 6)))
    tokens[:, -1] = 29
    images = torch.tensor(rng.normal(size=(ROWS, 3, 8, 8)))
    found = model(input_ids=tokens, pixel_values=images, return_loss=True)
    found.loss.backward()
    image, text = (x.detach().numpy() for x in (found.image_embeds, found.text_embeds))
    with jax.enable_x64(True):
        mask = jnp.ones(ROWS, bool)
        objective = kind(model=None, config=None)

        def loss(scale, bias):
            pairs = Pairs(jnp.asarray(image), jnp.asarray(text), jnp.exp(scale), bias)
            return objective.contrast(pairs, mask).mean()

        bias = jnp.asarray(-2.0 if name == "siglip" else 0.0)
        value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(jnp.asarray(1.3), bias)
    np.testing.assert_allclose(value, found.loss.item(), rtol=1e-6)
    np.testing.assert_allclose(slopes[0], model.logit_scale.grad.item(), rtol=1e-5)
    if name == "siglip":
        np.testing.assert_allclose(slopes[1], model.logit_bias.grad.item(), rtol=1e-5)
