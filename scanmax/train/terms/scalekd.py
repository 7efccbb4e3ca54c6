"""ScaleKD: a student of any architecture imitates a transformer's map, seen three ways."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.fields import ranged
from scanmax.models.layers import Conv, Dense, LayerNorm, partitioned
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term
from scanmax.train.terms.maps import as_map, as_tokens, with_places


class ScaleKd(Term):
    """a d(P_1 s, t) + b d(P_2 s - mean, t - mean) + c d(rest of the teacher on P_3 s', t).

    d is the sum over places and channels of squared differences of maps, each place of norm 1. The
    mean over the places is what a discrete cosine transform without its first coefficient leaves
    out, so that the second view is of how places differ. The third puts an earlier map s' of the
    student where the teacher has its own, and goes through the teacher's last layers. Each P is a
    cross-attention projector beside the model (released: batch norm where layer norm stands here).

    Attributes:
      student_tap: path of s, the student's last map.
      teacher_tap: path of t, the teacher's.
      early_student_tap: path of s'.
      early_teacher_tap: path of the teacher's map that it takes the place of.
      direct: a, weight of the first view.
      residue: b, of the second.
      proxy: c, of the third; 0 leaves it out.
      heads: of the projectors' attention.

    Reference: scalekd
    """

    student_tap: str = "block_01/output"
    teacher_tap: str = "block_01/output"
    early_student_tap: str = "block_00/output"
    early_teacher_tap: str = "block_00/output"
    direct: float = ranged(1.0, "[0, inf)")
    residue: float = ranged(1.0, "[0, inf)")
    proxy: float = ranged(1.0, "[0, inf)")
    heads: int = ranged(1, "[1, inf)")

    reads_taps: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""

        def project(tap, like, name):
            own = as_map(student.tap(tap), tap)
            shape = as_map(teacher.tap(like), like).shape[1:]
            return CrossAttentionProjector(*shape, heads=self.heads, name=name)(own)

        told = as_map(teacher.tap(self.teacher_tap), self.teacher_tap)
        total = jnp.zeros(len(told), told.dtype)
        if self.direct:
            total += self.direct * apart(project(self.student_tap, self.teacher_tap, "first"), told)
        if self.residue:
            own = project(self.student_tap, self.teacher_tap, "second")
            total += self.residue * apart(without_mean(own), without_mean(told))
        if self.proxy:
            own = project(self.early_student_tap, self.early_teacher_tap, "third")
            value = with_places(teacher.tap(self.early_teacher_tap), own)
            ahead = teacher.resume(self.early_teacher_tap, value).tap(self.teacher_tap)
            total += self.proxy * apart(as_map(ahead, self.teacher_tap), told)
        return total


class CrossAttentionProjector(nn.Module):
    """A map in a teacher's layout: learned queries, one of each place, attend to the student's.

    Attributes:
      height, width: places of the teacher's map.
      features: its channels.
      heads: of the attention.
    """

    height: int
    width: int
    features: int
    heads: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B y x D"]:
        wide, own = self.features, {"dtype": x.dtype}
        init = nn.initializers.normal(0.02)

        def learned(name, tokens):
            placed = partitioned(init, (None, "embed"), (-2,), (-1,))
            return self.param(name, placed, (tokens, wide), jnp.float32).astype(x.dtype)

        def split(y):
            return y.reshape(*y.shape[:-1], self.heads, wide // self.heads)

        x = nn.relu(LayerNorm(name="norm0", **own)(Conv(wide, 3, name="conv", **own)(x)))
        tokens = as_tokens(x)
        tokens = tokens + learned("pos_embed", tokens.shape[1])
        asks = Dense(wide, ("embed", "mlp"), name="ask", **own)
        queries = nn.relu(asks(learned("queries", self.height * self.width)))
        queries = jnp.broadcast_to(queries, (len(x), *queries.shape))
        # What is added to all keys alike moves no weight.
        query, key, value = (
            split(Dense(wide, ("embed", "mlp"), use_bias=name != "key", name=name, **own)(z))
            for name, z in (("query", queries), ("key", tokens), ("value", tokens))
        )
        read = ops.dot_product_attention(query, key, value).reshape(queries.shape)
        y = queries + Dense(wide, ("mlp", "embed"), name="out", **own)(read)
        hidden = Dense(4 * wide, ("embed", "mlp"), name="fc0", **own)
        hidden = nn.gelu(hidden(LayerNorm(name="norm1", **own)(y)))
        # What is added to all places alike, the second view does not see.
        y = y + Dense(wide, ("mlp", "embed"), use_bias=False, name="fc1", **own)(hidden)
        return y.reshape(len(x), self.height, self.width, wide)


def without_mean(x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
    """The map without the first coefficient of its discrete cosine transform."""
    return x - jnp.mean(x, axis=(1, 2), keepdims=True)


def unit(x: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    """Vectors of norm 1; 0 stays, without a gradient."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jnp.where(square > 0, jnp.where(square > 0, square, 1) ** -0.5, 0)


def apart(own: Float[Array, "B Y X C"], told: Float[Array, "B Y X C"]) -> Float[Array, "B"]:
    """The sum of squares between maps whose places are of norm 1."""
    return jnp.sum(jnp.square(unit(own) - unit(told)), axis=(1, 2, 3))
