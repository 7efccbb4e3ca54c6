"""Cross-modal attention: what two towers would read of each other, were they one."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.models.fusion import read_tokens
from scanmax.train.teachers import Told
from scanmax.train.terms.base import Term

# Below it a weight's logarithm is that of nothing.
SMALLEST = 1e-20


class CrossAttention(Term):
    """cross * [D(T_it, S_it) + D(T_ti, S_ti)] + within * [D(T_ii, S_ii) + D(T_tt, S_tt)].

    S_ab = softmax(Q_a K_b^T / sqrt d) of the towers' own queries and keys, of which neither tower
    reads the other's; T_ab is that block of a fusion encoder's attention, its rows divided by their
    sums. D is KL(T || S), the mean over heads and queries; padding is no query and no key. Where
    heads differ in number, their means are compared. The teacher's option `"towers": {"fused":
    True}` says that it is a fusion encoder, as the objective `matching` trains.

    Attributes:
      cross: weight of what images read of texts, and texts of images.
      within: of what each reads of itself.
      image_tap: path of the image tower's mixer.
      text_tap: of the text tower's, a softmax attention too.
      teacher_tap: of the teacher's.
      pad_token: fills texts behind their end.

    Reference: dide-distilled-dual-encoder
    """

    cross: float = ranged(1.0, "[0, inf)")
    within: float = ranged(0.0, "[0, inf)")
    image_tap: str = "image/block_11/mixer"
    text_tap: str = "text/block_03/mixer"
    teacher_tap: str = "block_11/mixer"
    pad_token: int = 0

    reads_taps: ClassVar[bool] = True
    reads_pairs: ClassVar[bool] = True

    def __call__(self, student: Told, teacher: Told, batch: dict[str, Array]) -> Float[Array, "B"]:
        """[B]"""
        paths = {"image": self.image_tap, "text": self.text_tap}
        asks = {name: wide(student.tap(f"{path}/queries")) for name, path in paths.items()}
        keys = {name: wide(student.tap(f"{path}/keys")) for name, path in paths.items()}
        told = wide(teacher.tap(f"{self.teacher_tap}/attention"))  # [B, H, T, T]
        lengths = {name: x.shape[1] for name, x in asks.items()}
        shapes = {x.shape[2:] for x in (*asks.values(), *keys.values())}
        where = f"config.objective.terms: {self.name!r}"
        if len(shapes) > 1:
            raise UserError(f"{where}: queries and keys of both towers must fit, not {shapes}")
        if told.shape[-1] != sum(lengths.values()):
            raise UserError(
                f"{where}: the towers have {lengths['image']} and {lengths['text']} tokens, and "
                f"the teacher {told.shape[-1]}, which must be their sum"
            )
        is_word = read_tokens(batch["tokens"], self.pad_token)
        reads = {"image": jnp.ones(asks["image"].shape[:2], bool), "text": is_word}
        rows = dict(zip(lengths, jnp.split(told, [lengths["image"]], axis=2)))
        total = jnp.zeros(len(told), told.dtype)
        for name in paths:
            columns = dict(zip(lengths, jnp.split(rows[name], [lengths["image"]], axis=3)))
            for other in paths:
                weight = self.within if name == other else self.cross
                if weight:
                    own = attended(asks[name], keys[other], reads[other])
                    total += weight * apart(own, columns[other], reads[name])
        return total


def wide(x: Array) -> Array:
    """In float32 or wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def attended(
    queries: Float[Array, "B T H K"], keys: Float[Array, "B S H K"], reads: Bool[Array, "B S"]
) -> Float[Array, "B H T S"]:
    """The weights by which queries would read keys."""
    logits = jnp.einsum("bthk,bshk->bhts", queries, keys) / queries.shape[-1] ** 0.5
    # Finite: a row without words is one that does not count.
    hidden = jnp.finfo(logits.dtype).min
    return jax.nn.softmax(jnp.where(reads[:, None, None], logits, hidden), axis=-1)


def apart(
    own: Float[Array, "B H T S"], told: Float[Array, "B G T S"], asks: Bool[Array, "B T"]
) -> Float[Array, "B"]:
    """The mean over heads and queries of KL(told || own), told's rows made distributions."""
    told = told / jnp.maximum(jnp.sum(told, axis=-1, keepdims=True), SMALLEST)
    if own.shape[1] != told.shape[1]:
        own, told = (jnp.mean(x, axis=1, keepdims=True) for x in (own, told))
    told_log, own_log = (jnp.log(jnp.maximum(x, SMALLEST)) for x in (told, own))
    rows = jnp.mean(jnp.sum(told * (told_log - own_log), axis=-1), axis=1)  # [B, T]
    counts = jnp.maximum(jnp.sum(asks, axis=1), 1)
    return jnp.sum(jnp.where(asks, rows, 0), axis=1) / counts
