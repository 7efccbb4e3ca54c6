"""Cross-architecture distillation: a map of any model in a transformer's attention and tokens."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.models.layers import Conv, partitioned
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term
from scanmax.train.terms.discriminator import make_judge, turned
from scanmax.train.terms.maps import as_map, as_tokens

PARTS = ("queries", "keys", "values")


class CrossArch(Term):
    """attention * (|A_t - A|^2 + |R_t - R_s|^2) + tokens * |G - t|^2 + adversarial * (a game).

    A = softmax(q k^T / sqrt d) v and R = v v^T / sqrt d, squares as means; q, k and v are 3 x 3
    convolutions of the student's last map, and in A each is, with probability `swap`, the teacher's
    own (partially cross attention). G is the map in the teacher's width, by a linear map of each
    neighbourhood of group x group pixels (group-wise linear); t is the teacher's activation there.
    In the game a net of three layers tells t from G, which fools it: its gradient is turned round.
    Views are the data's and the mixes', of which both see the same. What the student's map lacks in
    size is interpolated; the teacher's prefix tokens are left out. Built from the equations: no
    code is published, and the weights are not.

    Attributes:
      student_tap: path of the student's map.
      teacher_tap: path of t.
      teacher_mixer: path of the teacher's attention, which gives "queries", "keys" and "values".
      swap: probability of the teacher's own, drawn for each of the three in each step.
      attention: weight of the first.
      tokens: of the second.
      adversarial: of the game.
      group: side of a neighbourhood.
      width: of the hidden layers of the net.

    Reference: cross-arch-kd
    """

    student_tap: str = "block_01/output"
    teacher_tap: str = "block_01/output"
    teacher_mixer: str = "block_01/mixer"
    swap: float = ranged(0.5, "[0, 1]")
    attention: float = ranged(1.0, "[0, inf)")
    tokens: float = ranged(1.0, "[0, inf)")
    adversarial: float = ranged(0.1, "[0, inf)")
    group: int = ranged(4, "[1, inf)")
    width: int = ranged(64, "[1, inf)")

    reads_taps: ClassVar[bool] = True

    @nn.compact
    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        told = as_map(teacher.tap(self.teacher_tap), self.teacher_tap)
        own = as_map(student.tap(self.student_tap), self.student_tap)
        own = jax.image.resize(own, (*told.shape[:3], own.shape[-1]), "linear")
        total = jnp.zeros(len(own), own.dtype)
        if self.attention:
            theirs = [self.projection(teacher, part) for part in PARTS]
            ours = [self.projected(own, like, part) for like, part in zip(theirs, PARTS)]
            total += self.attention * apart(ours, theirs, self.draw())
        if not (self.tokens or self.adversarial):
            return total
        own = GroupwiseLinear(told.shape[-1], self.group, name="groups")(own)
        if self.tokens:
            total += self.tokens * jnp.mean(jnp.square(own - told), axis=(1, 2, 3))
        if self.adversarial:
            judge = make_judge(self.width, own.dtype)
            game = (jax.nn.softplus(-judge(told)) + jax.nn.softplus(judge(turned(own)))) / 2
            total += self.adversarial * jnp.mean(game, axis=(1, 2))
        return total

    def projection(self, teacher: Told, part: str) -> Float[Array, "B T H K"]:
        """The teacher's queries, keys or values of the places of its map."""
        path = f"{self.teacher_mixer}/{part}".removeprefix("/")
        x = teacher.tap(path)
        flat = as_tokens(as_map(x.reshape(*x.shape[:2], -1), path))
        return flat.reshape(*flat.shape[:2], *x.shape[2:])

    def projected(
        self, own: Float[Array, "B Y X C"], like: Float[Array, "B T H K"], part: str
    ) -> Float[Array, "B T H K"]:
        """The student's, of the shape of the teacher's."""
        if own.shape[1] * own.shape[2] != like.shape[1]:
            raise UserError(
                f"config.objective.terms: {self.name!r}: teacher_mixer={self.teacher_mixer!r} has "
                f"{like.shape[1]} places and teacher_tap={self.teacher_tap!r} "
                f"{own.shape[1]} x {own.shape[2]}: take both of one block"
            )
        heads, width = like.shape[2:]
        x = Conv(heads * width, 3, name=part, dtype=own.dtype)(own)
        return as_tokens(x).reshape(like.shape)

    def draw(self) -> Bool[Array, "3"]:
        """Which of the three are the teacher's."""
        if self.swap in (0, 1) or self.is_initializing():
            return jnp.full(3, self.swap == 1)
        return jax.random.bernoulli(self.make_rng("objective"), self.swap, (3,))


def apart(
    ours: list[Float[Array, "B T H K"]],
    theirs: list[Float[Array, "B T H K"]],
    swapped: Bool[Array, "3"],
) -> Float[Array, "B"]:
    """Mean squares between what attention gives, parts of ours swapped, and between relations."""
    crossed = [jnp.where(swap, y, x) for swap, x, y in zip(swapped, ours, theirs)]
    attended = jnp.square(attend(*crossed) - attend(*theirs))
    relations = jnp.square(related(ours[2]) - related(theirs[2]))
    return jnp.mean(attended, axis=(1, 2, 3)) + jnp.mean(relations, axis=(1, 2, 3))


def attend(query: Array, key: Array, value: Array) -> Float[Array, "B T H K"]:
    """softmax(q k^T / sqrt d) v by heads."""
    scores = jnp.einsum("bthk,bshk->bhts", query, key) * query.shape[-1] ** -0.5
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), value)


def related(value: Float[Array, "B T H K"]) -> Float[Array, "B H T T"]:
    """v v^T / sqrt d by heads."""
    return jnp.einsum("bthk,bshk->bhts", value, value) * value.shape[-1] ** -0.5


class GroupwiseLinear(nn.Module):
    """A linear map of each neighbourhood of a map; the last ones may be cut by the border.

    Attributes:
      features: that it gives.
      group: side of a neighbourhood, in pixels.
    """

    features: int
    group: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X D"]:
        rows, height, width, channels = x.shape
        grid = [-(-side // self.group) for side in (height, width)]
        init = nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal", in_axis=-2, out_axis=-1, batch_axis=(0, 1)
        )
        axes = (None, None, "embed", "mlp")
        kernel = self.param(
            "kernel",
            partitioned(init, axes, (-2,), (-1,)),
            (*grid, channels, self.features),
            self.param_dtype,
        )
        bias_axes = (None, None, "mlp")
        bias = self.param(
            "bias",
            partitioned(nn.initializers.zeros, bias_axes, (), (-1,)),
            (*grid, self.features),
            self.param_dtype,
        )
        short = [self.group * count - side for count, side in zip(grid, (height, width))]
        x = jnp.pad(x, ((0, 0), (0, short[0]), (0, short[1]), (0, 0)))
        x = x.reshape(rows, grid[0], self.group, grid[1], self.group, channels)
        y = jnp.einsum("bygxhc,yxcd->bygxhd", x, kernel.astype(x.dtype))
        y = y + bias.astype(x.dtype)[:, None, :, None]
        return y.reshape(rows, *(self.group * count for count in grid), -1)[:, :height, :width]
