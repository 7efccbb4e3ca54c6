"""Rate reduction: features that take much space together and little in each cluster."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.errors import UserError
from scanmax.fields import ranged
from scanmax.models.layers import BatchNorm, Dense
from scanmax.train.config import Config
from scanmax.train.losses.rate_reduction import (
    coding_rate,
    compressed_rate,
    sinkhorn_membership,
)
from scanmax.train.objectives.base import Batch, Losses, Objective, check_no_labels
from scanmax.train.objectives.views import unit

WARM = "warm_start"


class ClusterHeads(nn.Module):
    """Two hidden layers, and two linear heads of them.

    The head of clusters is what it has learned since the warm start, zero at first, added to what
    the head of features then was.

    Attributes:
      hidden: width of the hidden layers.
      dim: width of the heads.
      batch_norm: whether the first hidden layer is normalised, over the global batch.
    """

    hidden: int
    dim: int
    batch_norm: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B F"], begun: Any, train: bool
    ) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        """z and c, each of length 1.

        Args:
          x: features of the model.
          begun: parameters of the head of features at the end of the warm start.
          train: whether the norm is by the batch.
        """

        def dense(width, name, axes, **fields):
            fields = {"kernel_init": nn.initializers.lecun_normal(), **fields}
            return Dense(width, axes, dtype=x.dtype, name=name, **fields)

        h = dense(self.hidden, "fc0", ("embed", "mlp"), use_bias=not self.batch_norm)(x)
        if self.batch_norm:
            h = BatchNorm(dtype=x.dtype, name="norm0")(h, train=train)
        h = nn.relu(dense(self.hidden, "fc1", ("mlp", "embed"))(nn.relu(h)))
        z = dense(self.dim, "features", ("embed", "mlp"))(h)
        zero = nn.initializers.zeros
        c = dense(self.dim, "clusters", ("embed", "mlp"), kernel_init=zero)(h)
        if begun is not None:
            c = c + h @ begun["kernel"].astype(h.dtype) + begun["bias"].astype(h.dtype)
        return unit(z), unit(c)


class RateReduction(Objective):
    """-R(Z) + R_c(Z, P) + gamma/2 |P|^2: clusters without labels, of a trained model's features.

    R is the `coding_rate` of all vectors z of the batch, R_c that of its soft clusters, which are
    the columns of P, the `sinkhorn_membership` of the vectors c. z and c are two heads of one small
    network on the model's pooled features. The first steps are by -R alone; the head of c then
    begins as that of z. As released: gamma, the names of all widths, the squared error 0.1 and no
    gradient through the columns' scaling; `gamma=0, unrolled=True` is the equation alone. The
    released command's option for the squared error is read by nothing there; here `precision` is.
    Weight decay of the head of c, which is released as one of its own, draws it to where it began.

    Clusters are said by the evaluator `clustering`; held-out images have vectors z and c, by
    `predict`. Memory grows with the square of the batch, and as batch times dim^2.

    Attributes:
      hidden: width of the hidden layers.
      dim: width of z and c.
      batch_norm: whether the first hidden layer is normalised over the batch.
      precision: the squared error of the rates.
      gamma: weight of the squared memberships.
      entropy: of the memberships.
      iterations: of Sinkhorn, of both sides.
      unrolled: whether gradients flow through all of Sinkhorn's updates.
      warmup: steps by the rate alone, 1 in the released default.
      frozen: whether the model stays as it is: no gradient, no dropout, its own statistics.

    Reference: cpp-rate-reduction-clustering
    """

    hidden: int = ranged(4096, "[1, inf)")
    dim: int = ranged(128, "[1, inf)")
    batch_norm: bool = True
    precision: float = ranged(0.1, "(0, inf)")
    gamma: float = ranged(0.05, "[0, inf)")
    entropy: float = ranged(0.175, "(0, inf)")
    iterations: int = ranged(2, "[1, inf)")
    unrolled: bool = False
    warmup: int = ranged(1, "[0, inf)")
    frozen: bool = True

    metric_names: ClassVar[tuple[str, ...]] = ()
    headless: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False

    def setup(self):
        self.heads = ClusterHeads(self.hidden, self.dim, self.batch_norm)

    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The loss of the batch, alike for each example [B]."""
        features = self.features(batch, train and not self.frozen)
        z, c = self.vectors(features, train)
        kept = batch.get("mask", jnp.ones(len(z), bool))
        rate = coding_rate(z, kept, precision=self.precision)
        membership = self.membership(c, kept)
        inside = compressed_rate(z, membership, kept, precision=self.precision)
        square = jnp.sum(jnp.square(membership))
        is_warm = self.warm["done"] > 0 if self.warm else self.warmup == 0
        values = {
            "rate": -rate,
            "compression": jnp.where(is_warm, inside, 0),
            "membership": jnp.where(is_warm, self.gamma / 2 * square, 0),
        }
        metrics = {"rate": rate, "rate_reduction": rate - inside}
        spread = lambda value: jnp.broadcast_to(value, kept.shape)  # noqa: E731
        values = {name: spread(self.config.weight * value) for name, value in values.items()}
        return Losses(values, features, jax.tree.map(spread, metrics))

    @property
    def warm(self) -> dict[str, Any]:
        """What is carried: where the head of clusters began, and whether it has."""
        if not self.has_variable(WARM, "done"):
            return {}
        names = ("kernel", "bias", "done")
        return {name: jax.lax.stop_gradient(self.get_variable(WARM, name)) for name in names}

    def features(self, batch: Batch, train: bool) -> Float[Array, "B F"]:
        """The model's pooled features.

        Raises:
          UserError: the model gives something else.
        """
        found = self.model(self.inputs(batch), train=train)
        if isinstance(found, tuple) or found.ndim != 2:
            raise UserError(
                f"config.objective.name={self.config.name!r} reads pooled features [B, D]; "
                f"{type(self.model).__name__} gives others without its head"
            )
        return jax.lax.stop_gradient(found) if self.frozen else found

    def vectors(
        self, features: Float[Array, "B F"], train: bool
    ) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        """z and c of features."""
        return self.heads(features, self.warm or None, train)

    @nn.nowrap
    def membership(self, c: Array, kept: Array | None = None) -> Float[Array, "B B"]:
        """P of vectors c."""
        options = {"entropy": self.entropy, "iterations": self.iterations}
        return sinkhorn_membership(c, kept, unrolled=self.unrolled, **options)

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """Nothing: clusters are of many images."""
        return {}

    def predict(self, batch: Batch) -> dict[str, Array]:
        """The vectors z and c of held-out images."""
        z, c = self.vectors(self.features(batch, False), False)
        return {"z": z, "c": c}

    @nn.nowrap
    def begin(self, params: Any, carried: dict[str, Any]) -> dict[str, Any]:
        """The head of clusters begins where that of features is."""
        done = jnp.full((), self.warmup == 0, jnp.float32)
        # A copy: what is carried and what is learned are not of one buffer.
        head = jax.tree.map(jnp.copy, dict(params["heads"]["features"]))
        return {**carried, WARM: {**head, "done": done}}

    @nn.nowrap
    def after_update(self, params: Any, carried: dict[str, Any], step: Array) -> dict[str, Any]:
        """Until the warm start is over the one head follows the other."""
        old, new = carried[WARM], params["heads"]["features"]
        follows = step < self.warmup
        kept = {name: jnp.where(follows, new[name], old[name]) for name in ("kernel", "bias")}
        kept["done"] = jnp.asarray(step + 1 >= self.warmup, jnp.float32)
        return {**carried, WARM: kept}

    @classmethod
    def read_as(cls, model: nn.Module, config: Config, pipeline: Any) -> nn.Module:
        """The model without its head.

        Raises:
          UserError: a frozen model that weight decay would change.
        """
        is_frozen = config.objective.kwargs.get("frozen", True)
        if is_frozen and config.optim.weight_decay and not config.optim.freeze:
            raise UserError(
                f"config.objective.name={config.objective.name!r} leaves the model as it is, and "
                f"weight_decay={config.optim.weight_decay} would shrink it: set config.optim."
                "freeze=('^model/',), or frozen=False in config.objective.kwargs"
            )
        return super().read_as(model, config, pipeline)

    @nn.nowrap
    def check(self) -> None:
        """Refuses what it could not heed.

        Raises:
          UserError: terms, teachers, or a loss of classes.
        """
        if self.terms or self.teachers:
            raise UserError(
                f"config.objective.name={self.config.name!r} compares the images of a batch: it "
                "takes no terms or teachers"
            )
        check_no_labels(self.config)
