"""SaliencyMix: the box that is pasted lies where the partner is salient."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.fields import ranged
from scanmax.train.mixing.base import DrawnMix, box_shares, partners, symmetric_beta


@dataclasses.dataclass(frozen=True)
class SaliencyMix(DrawnMix):
    """CutMix with the box around the partner's most salient pixel.

    Saliency is the spectral residual of the image itself (Hou and Zhang, 2007), where the released
    code asks a detector of OpenCV.

    Attributes:
      alpha: the box is of share 1 - w, w from Beta(alpha, alpha).

    Reference: Uddin et al., SaliencyMix: A Saliency Guided Data Augmentation Strategy for Better
      Regularization, 2021.
    """

    alpha: float = ranged(1.0, "(0, inf)")

    def plan(
        self,
        key: Array,
        images: Float[Array, "B Y X C"],
        guide: Float[Array, "B Yg Xg"] | None = None,
    ) -> tuple[Float[Array, "B Y X"], Float[Array, "B Y X C"]]:
        """Shares that are 0 in the box, and the partners."""
        weights, leaves = jax.random.split(key)
        rows, height, width, _ = images.shape
        weight = symmetric_beta(weights, self.alpha, (self.draws(rows),))
        peak = jnp.argmax(partners(spectral_residual(images)).reshape(rows, -1), axis=1)
        # Of the pixel's middle, which a product with the sides falls back into.
        centre = jnp.stack([peak // width + 0.5, peak % width + 0.5], axis=1)
        own = box_shares(
            self.spread(weight, rows), centre / jnp.asarray([height, width]), (height, width)
        )
        return self.unless_left_out(leaves, own), partners(images)


def spectral_residual(images: Float[Array, "B Y X C"]) -> Float[Array, "B Y X"]:
    """|F^-1 exp(L - mean(L) + i P)|^2, smoothed: what is unlike the rest of its image.

    L and P are logarithm of the amplitude and phase of the grey image's Fourier transform, mean is
    over 3 x 3 frequencies.
    """
    grey = jnp.mean(images.astype(jnp.float32), axis=-1)
    spectrum = jnp.fft.fft2(grey)
    amplitude = jnp.abs(spectrum)
    logs = jnp.log(jnp.maximum(amplitude, 1e-6))
    phase = jnp.where(amplitude > 0, spectrum / jnp.maximum(amplitude, 1e-12), 1)
    residual = jnp.fft.ifft2(jnp.exp(logs - around(logs)) * phase)
    return around(around(jnp.square(jnp.abs(residual))))


def around(maps: Float[Array, "B Y X"]) -> Float[Array, "B Y X"]:
    """The mean of 3 x 3, as on a torus."""
    shifted = [
        jnp.roll(maps, (down, right), axis=(1, 2)) for down in (-1, 0, 1) for right in (-1, 0, 1)
    ]
    return sum(shifted) / 9
