"""What a large pair of towers has to teach a small one, six ways."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.models.layers import Dense
from scanmax.models.towers import Pairs, similarities, unit
from scanmax.train.losses.contrast import row_contrast, softmax_contrast
from scanmax.train.terms.pairs import OfPairs

WAYS = ("features", "interactive", "relation", "gradient", "fused")


class ClipKd(OfPairs):
    """The sum of these, by their weights, of unit vectors v of images and s of texts.

        features:    mean (v_s - v_t)^2 + mean (s_s - s_t)^2 over the width
        interactive: (-log softmax_j(c v_s s_t_j)_i - log softmax_j(c s_s v_t_j)_i) / 2
        relation:    (KL(A_t || A_s) + KL(B_t || B_s)) / 2 of the affinities by rows and columns
        gradient:    mean (dL/dv_s - dL/dv_t)^2 + mean (dL/ds_s - dL/ds_t)^2, L CLIP's loss
        fused:       CLIP's loss of unit(W [v_s; v_t]) and unit(U [s_s; s_t])

    Where the widths differ the student's vectors are projected to the teacher's, and brought to
    length 1 again, for all but the relation. Scales of the interactive and the fused loss are
    learned. The published recipe is the default; of features masked (MFD) the student sees part of
    an image, `config.objective.kwargs={"hide": 0.75}`. The gradient, which is small, took a weight
    of 1e8.

    Attributes:
      features: weight of the features.
      interactive: weight of the interactive contrast.
      relation: weight of the contrastive relation.
      gradient: weight of the gradients.
      fused: weight of the augmented features.

    Reference: clip-kd
    """

    features: float = ranged(2000.0, "[0, inf)")
    interactive: float = ranged(1.0, "[0, inf)")
    relation: float = ranged(1.0, "[0, inf)")
    gradient: float = ranged(0.0, "[0, inf)")
    fused: float = ranged(0.0, "[0, inf)")

    @nn.compact
    def between(self, own: Pairs, told: Pairs, mask: Bool[Array, "B"]) -> Float[Array, "B"]:
        """[B]"""
        total = jnp.zeros(len(mask), own.image.dtype)
        if self.relation:
            entropy = softmax_contrast(told.logits, mask, told.logits)
            relation = softmax_contrast(own.logits, mask, told.logits) - entropy
            total += self.relation * relation
        if not any(getattr(self, way) for way in WAYS if way != "relation"):
            return total
        own, narrow = self.projected(own, told.image.shape[-1]), own.image.shape[-1]
        if self.features:
            apart = jnp.square(own.image - told.image) + jnp.square(own.text - told.text)
            total += self.features * jnp.mean(apart, axis=1)
        if self.interactive:
            scale = self.learned_scale("interactive_scale", own)
            across = (own.image, told.text), (own.text, told.image)
            rows = (row_contrast(scale * similarities(*sides), mask) for sides in across)
            total += self.interactive * sum(rows) / 2
        if self.gradient:
            slopes = zip(contrast_slopes(own, mask), contrast_slopes(told, mask))
            apart = sum(jnp.mean(jnp.square(mine - theirs), axis=1) for mine, theirs in slopes)
            total += self.gradient * apart
        if self.fused:
            total += self.fused * self.fusion(own, told, mask, narrow)
        return total

    def projected(self, own: Pairs, width: int) -> Pairs:
        """The student's unit vectors in the teacher's space."""
        if own.image.shape[-1] == width:
            return own
        image, text = (
            self.mapped(f"{name}_projector", width, getattr(own, name))
            for name in ("image", "text")
        )
        return own._replace(image=image, text=text)

    def fusion(self, own: Pairs, told: Pairs, mask: Bool[Array, "B"], width: int) -> Array:
        """CLIP's loss of both models' vectors together."""
        both = {
            name: jnp.concatenate([getattr(own, name), getattr(told, name)], axis=1)
            for name in ("image", "text")
        }
        image, text = (self.mapped(f"{name}_fusion", width, x) for name, x in both.items())
        scale = self.learned_scale("fusion_scale", own)
        return softmax_contrast(scale * similarities(image, text), mask)

    def mapped(self, name: str, width: int, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """Unit vectors of a learned linear map."""
        init = nn.initializers.lecun_normal()
        return unit(Dense(width, ("embed", "mlp"), kernel_init=init, dtype=x.dtype, name=name)(x))

    def learned_scale(self, name: str, own: Pairs) -> Float[Array, ""]:
        """exp of a parameter that begins as CLIP's."""
        found = self.param(name, nn.initializers.constant(math.log(1 / 0.07)), (), jnp.float32)
        return jnp.exp(found.astype(own.image.dtype))

    @nn.nowrap
    def check(self, teachers: int) -> None:
        """Refuses a term of nothing.

        Raises:
          UserError: all weights are 0.
        """
        super().check(teachers)
        if not any(getattr(self, way) for way in WAYS):
            raise UserError(
                f"config.objective.terms: {self.name!r} has no weight above 0 among "
                f"{', '.join(WAYS)}"
            )


def contrast_slopes(
    pairs: Pairs, mask: Bool[Array, "B"]
) -> tuple[Float[Array, "B E"], Float[Array, "B E"]]:
    """The gradient of CLIP's mean loss by the vectors of images and of texts, in closed form.

    dL/dv_i = (scale / 2n) sum_j (A_ij + B_ij - 2 [i = j]) s_j
    """
    logits = pairs.logits
    both = mask[None] & mask[:, None]
    # A row that does not count has itself, so that its softmax is one.
    kept = both | jnp.eye(len(logits), dtype=bool)
    logits = jnp.where(kept, logits, -jnp.inf)
    shares = jax.nn.softmax(logits, axis=1) + jax.nn.softmax(logits, axis=0)
    shares = jnp.where(both, shares - 2 * jnp.eye(len(logits), dtype=shares.dtype), 0)
    shares = shares * pairs.scale / (2 * jnp.maximum(jnp.sum(mask), 1))
    return (
        jnp.matmul(shares, pairs.text, precision="highest"),
        jnp.matmul(shares.T, pairs.image, precision="highest"),
    )
