"""What shifts between products over channels are worth where images get more pixels."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim
from scanmax.models.layers import Conv, Dense
from scanmax.models.mixers import create_mixer
from scanmax.models.parts.upsample import bilinear_upsample, pixel_shuffle

SEEDS = (0, 1, 2)
DEPTH, STEPS, ROWS = 3, 400, 64
# Widths of nearly as many parameters.
WIDTHS = {"shifts": 32, "products alone": 32, "3 x 3 convolutions": 11}


class Enlarging(nn.Module):
    """Residual blocks of a kind on a map of 4 x 4, of which an image of 8 x 8 is made.

    Attributes:
      kind: of what stands in a block, a key of WIDTHS.
    """

    kind: str

    @nn.compact
    def __call__(self, images: Any) -> Any:
        width = WIDTHS[self.kind]
        x = nn.leaky_relu(Dense(width, ("conv_in", "embed"), name="embed")(images), 0.1)
        for index in range(DEPTH):
            x = x + self.block(x, index)
        y = Dense(4, ("embed", "conv_out"), name="head")(x)
        return pixel_shuffle(y, 2) + bilinear_upsample(images, 2)

    @nn.nowrap
    def block(self, x: Any, index: int) -> Any:
        names, width = [f"block{index}_{place}" for place in (1, 2)], x.shape[-1]
        if self.kind == "shifts":
            tokens = x.reshape(x.shape[0], -1, width)
            mixer = create_mixer("shift_conv", heads=1, name=names[0])
            return mixer(tokens, grid=x.shape[1:3]).reshape(x.shape)
        if self.kind == "products alone":
            first, second = (Dense(width, ("embed", "mlp"), name=name) for name in names)
        else:
            first, second = (Conv(width, 3, name=name) for name in names)
        return second(nn.relu(first(x)))


def digits(seed: int) -> tuple[Any, Any]:
    """Digits from 0 to 1 in a seed's order, and means of 2 by 2 pixels of them."""
    from sklearn.datasets import load_digits

    images = load_digits().images
    order = np.random.default_rng(seed).permutation(len(images))
    images = (images[order, ..., None] / 16).astype(np.float32)
    return images.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4)), images


def psnr(made: Any, images: Any) -> float:
    """Decibels of the mean squared error beneath the brightest pixel."""
    return float(-10 * np.log10(np.mean((np.asarray(made) - images) ** 2)))


def start(shapes: Any, seed: int) -> Any:
    """Kernels that keep the scale of what they read, and no biases."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if leaf.ndim == 1:
            return np.zeros(leaf.shape, np.float32)
        return (rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)

    return jax.tree.map(draw, shapes)


def trained(kind: str, seeds: Sequence[int], steps: int) -> tuple[list[float], int]:
    """(PSNR of 397 held-out images by seed, parameters) of nets that learn from the others."""
    model, sets = Enlarging(kind), [digits(seed) for seed in seeds]
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), sets[0][0][:1]))
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *(start(shapes, s) for s in seeds))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def learn(params, coarse, fine, rows):
        def step(carry, rows):
            params, state = carry

            def loss(params):
                return jnp.mean(jnp.abs(model.apply(params, coarse[rows]) - fine[rows]))

            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), rows)
        return model.apply(params, coarse[1400:])

    coarse, fine = (np.stack(images) for images in zip(*sets))
    rows = [np.random.default_rng(seed).integers(1400, size=(steps, ROWS)) for seed in seeds]
    made = jax.jit(jax.vmap(learn))(params, coarse, fine, np.stack(rows))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    return [psnr(*pair) for pair in zip(made, fine[:, 1400:])], count


@claim("scnet-shifts", paper="scnet-shift-conv", by_hand=True)
def scnet_shifts(quick):
    """Products over channels with shifts between them are no worse than 3 by 3 convolutions."""
    steps, seeds = (2, SEEDS[:1]) if quick else (STEPS, SEEDS)
    found = {kind: trained(kind, seeds, steps) for kind in WIDTHS}
    means = {kind: np.mean(scores) for kind, (scores, _) in found.items()}
    told = {
        kind: f"{means[kind]:.2f} dB ({', '.join(f'{score:.2f}' for score in scores)}), "
        f"{count:,} parameters"
        for kind, (scores, count) in found.items()
    }
    plain = np.mean(
        [psnr(bilinear_upsample(low[1400:], 2), high[1400:]) for low, high in map(digits, seeds)]
    )
    shifts, alone, wide = (means[kind] for kind in WIDTHS)
    return [
        Finding(
            "digits of 4 x 4 at 8 x 8, three seeds, held out: between the pixels alone",
            "",
            f"{plain:.2f} dB",
            bool(plain < shifts),
        ),
        Finding("the same, with shifts", "", told["shifts"], bool(shifts > plain)),
        Finding("products alone", "worse", told["products alone"], bool(alone < shifts - 0.5)),
        Finding(
            "3 x 3 convolutions of as many parameters",
            "no better",
            told["3 x 3 convolutions"],
            bool(wide < shifts + 0.1),
        ),
    ]
