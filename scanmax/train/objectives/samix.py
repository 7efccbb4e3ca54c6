"""SAMix: learned masks of two images that read both at once, and are told to differ."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax import ops
from scanmax.fields import choice, ranged
from scanmax.models.layers import BatchNorm, Dense
from scanmax.train.objectives.automix import UPSAMPLING, AutoMix


class PairMasks(nn.Module):
    """Masks of two images, whose queries and keys read both maps, summing to 1.

        M_2 = sigmoid(up(A V(m_2))),  A = softmax(Q [m_1, m_2] (K [m_1, m_2])^T / c),  M_1 = 1 - M_2

    c is the root of the width; V is of two layers, with a batch norm and an ELU between them. Maps
    come scaled: m_1 by 1 + r, m_2 by 2 - r, r the share as `bent` has it.

    Attributes:
      size: rows and columns of the masks.
      reduction: how much narrower queries and keys are than maps.
      embeds_shares: whether maps are scaled.
      curve: of the shares; below 0 they are as they are.
      dropout: of the values.
      upsampling: "nearest" or "linear".
    """

    size: tuple[int, int]
    reduction: int
    embeds_shares: bool
    curve: float
    dropout: float
    upsampling: str

    @nn.compact
    def __call__(
        self, maps: Float[Array, "2 B y x C"], shares: Float[Array, "2 B"], train: bool = False
    ) -> Float[Array, "2 B Y X"]:
        """In the maps' dtype, float32 or wider."""
        _, rows, height, width, channels = maps.shape
        if self.embeds_shares:
            scales = bent(shares[0].astype(maps.dtype), self.curve)
            maps = maps * jnp.stack([1 + scales, 2 - scales])[:, :, None, None, None]
        first, second = maps.reshape(2, rows, height * width, channels)

        def project(name, features, x, has_bias=True):
            init = nn.initializers.normal(0.01)
            fields = {"kernel_init": init, "use_bias": has_bias, "dtype": maps.dtype, "name": name}
            return Dense(features, ("embed", "mlp"), **fields)(x)

        hidden = project("hidden", max(1, channels // 2), second, False)
        hidden = BatchNorm(dtype=maps.dtype, name="norm")(hidden, train=train)
        values = project("value", 1, nn.elu(hidden), False)
        values = nn.Dropout(self.dropout)(values, deterministic=not train)
        both = jnp.concatenate([first, second], axis=-1)
        inner = max(1, channels // self.reduction)
        queries, keys = (project(name, inner, both) for name in ("query", "key"))
        heads = (x[:, :, None] for x in (queries, keys, values))
        found = ops.dot_product_attention(*heads)[..., 0, 0].reshape(rows, height, width)
        found = jax.image.resize(found, (rows, *self.size), self.upsampling)
        return jnp.stack([jax.nn.sigmoid(-found), jax.nn.sigmoid(found)])


def bent(share: Float[Array, "*B"], curve: float) -> Float[Array, "*B"]:
    """(4/3 s^3 - 2 s^2 + (k + 1) s) / (k + 1/3), k the curve; below 0 it is s.

    Flat about a half, the more the smaller k is, so that a share counts where it is near 0 or 1.

    >>> import jax.numpy as jnp
    >>> [f"{x:.3f}" for x in bent(jnp.asarray([0.0, 0.25, 0.5, 1.0]), 0.25)]
    ['0.000', '0.357', '0.500', '1.000']
    """
    if curve < 0:
        return share
    return (4 / 3 * share**3 - 2 * share**2 + (curve + 1) * share) / (curve + 1 / 3)


class SaMix(AutoMix):
    """AutoMix whose masks read both images at once, and differ from place to place.

        mask * (relu(|mean M' - share| - slack) - variance * var M')

    is in the place of AutoMix's loss of the mean mask, the variance over all pixels of the batch;
    all else is AutoMix's. Defaults are those released for CIFAR-100; those for ImageNet have
    `curve=-1` and `dropout=0.1`. Of the text's loss that weighs two classes against all others,
    the released code has a weight that changes nothing, since the others' labels are zero: it is
    left out.

    Attributes:
      embeds_shares: whether maps are scaled by their shares.
      variance: weight of the masks' variance.
      curve: how flat the shares of maps are about a half; below 0 they are as they are.
      dropout: of the values that masks are made of.
      adjust: share of the model's batches whose masks are scaled until their mean is the share. The
        released code takes the share of the other mixture, which the labels do not know of.

    Source: Li et al., Boosting Discriminative Visual Representation Learning with Scenario-Agnostic
      Mixup, 2021.
    """

    upsampling: str = choice("linear", UPSAMPLING)
    variance: float = ranged(2.0, "[0, inf)")
    curve: float = ranged(0.25, "[-1, inf)")
    dropout: float = ranged(0.0, "[0, 1)")
    adjust: float = ranged(0.0, "[0, 1]")

    @nn.nowrap
    def made(
        self,
        maps: Float[Array, "2 B y x C"],
        shares: Float[Array, "2 B"],
        size: tuple[int, int],
        train: bool,
    ) -> Float[Array, "2 B Y X"]:
        """Each of the two mixtures by statistics of its own, as released."""
        names = ("reduction", "embeds_shares", "curve", "dropout", "upsampling")
        fields = {name: getattr(self, name) for name in names}
        masks = PairMasks(size, **fields, name="masks")
        given = (jnp.split(maps, 2, axis=1), jnp.split(shares, 2, axis=1))
        return jnp.concatenate([masks(*each, train) for each in zip(*given)], axis=1)

    @nn.nowrap
    def adjusted(
        self, masks: Float[Array, "2 B Y X"], share: Float[Array, ""]
    ) -> Float[Array, "2 B Y X"]:
        """Scaled, in so many batches, until the mean of each is the share."""
        if not self.adjust:
            return masks
        is_scaled = jax.random.uniform(self.make_rng("objective")) < self.adjust
        return jnp.where(is_scaled, of_mean(masks, share), masks)

    @nn.nowrap
    def contrast(
        self, masks: Float[Array, "2 B Y X"], counts: Bool[Array, " B"]
    ) -> Float[Array, ""]:
        """The variance of the second masks, weighed."""
        keep = counts[:, None, None]
        total = jnp.maximum(jnp.sum(counts), 1) * masks.shape[2] * masks.shape[3]
        mean = jnp.sum(jnp.where(keep, masks[1], 0)) / total
        spread = jnp.sum(jnp.where(keep, jnp.square(masks[1] - mean), 0)) / total
        return self.variance * spread


def of_mean(masks: Float[Array, "2 B Y X"], share: Float[Array, ""]) -> Float[Array, "2 B Y X"]:
    """Each mask that is too large in the mean scaled down to its share, and the other its rest."""
    means = jnp.clip(jnp.mean(masks, axis=(2, 3), keepdims=True), 1e-8, 1)
    shares = jnp.stack([share, 1 - share])[:, None, None, None]
    scaled = masks * jnp.minimum(shares / means, 1)
    is_first = means[0] > shares[0]
    return jnp.where(
        is_first, jnp.stack([scaled[0], 1 - scaled[0]]), jnp.stack([1 - scaled[1], scaled[1]])
    )
