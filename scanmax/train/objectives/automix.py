"""AutoMix and AdAutoMix: what mixes the images of a batch is learned beside the model."""

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax import ops
from scanmax.errors import UserError
from scanmax.fields import choice, ranged
from scanmax.models.layers import Dense
from scanmax.models.taps import read_taps
from scanmax.train.losses.base import accumulated
from scanmax.train.mixing.base import symmetric_beta
from scanmax.train.objectives.base import Batch, Losses
from scanmax.train.objectives.classification import Classification
from scanmax.train.objectives.momentum import asked, begun, moved
from scanmax.train.objectives.views import unit
from scanmax.train.teachers import Told
from scanmax.train.terms.maps import as_map

UPSAMPLING = ("nearest", "linear")


class Drawn(NamedTuple):
    """Which images of a batch are mixed, and how much of each.

    Attributes:
      index: [N, B] rows of the batch; the first of each is the row itself.
      shares: [N] of each, which sum to 1.
    """

    index: Int[Array, "N B"]
    shares: Float[Array, " N"]

    def mixed(self, rows: Float[Array, "B ..."], shares: Float[Array, "N B ..."]) -> Array:
        """Sums of rows, each as much as it has a share."""
        rows = jnp.asarray(rows)
        return sum(share * rows[index] for share, index in zip(shares, self.index))


class MixMasks(nn.Module):
    """Masks of N images from their maps, of which each reads the others', summing to 1.

        joint:   M = softmax_i(up(A_i V m_i)),  A_i = softmax(relu(Q m_i) sum_j relu(K m_j)^T / c)
        else:    M_2 = sigmoid(up(A V m_2)),  A = softmax(Q m_1 (Q m_2)^T / c),  M_1 = 1 - M_2

    j are the others, c the root of the width; the share of an image may be a channel of its map.

    Attributes:
      size: rows and columns of the masks.
      joint: masks of any number of images, as AdAutoMix has them; else of two, as AutoMix.
      reduction: how much narrower queries and keys are than maps.
      embeds_shares: whether the share is a channel.
      upsampling: "nearest" or "linear".
    """

    size: tuple[int, int]
    joint: bool
    reduction: int
    embeds_shares: bool
    upsampling: str

    @nn.compact
    def __call__(
        self, maps: Float[Array, "N B y x C"], shares: Float[Array, "N B"]
    ) -> Float[Array, "N B Y X"]:
        """In the maps' dtype, float32 or wider."""
        count, rows, height, width, channels = maps.shape
        if self.embeds_shares:
            own = jnp.broadcast_to(shares[:, :, None, None, None], (*maps.shape[:4], 1))
            maps = jnp.concatenate([maps, own.astype(maps.dtype)], axis=-1)
        tokens = maps.reshape(count, rows, height * width, 1, maps.shape[-1])

        def project(name, features, has_bias=True):
            init = nn.initializers.normal(0.01)
            fields = {"kernel_init": init, "use_bias": has_bias, "dtype": maps.dtype, "name": name}
            return Dense(features, ("embed", "mlp"), **fields)

        inner = max(1, channels // self.reduction)
        # What is added to all images alike moves no softmax over them.
        query, value = project("query", inner), project("value", 1, not self.joint)
        if self.joint:
            queries = nn.relu(query(tokens))
            keys = nn.relu(project("key", inner)(tokens))
            keys, values = jnp.sum(keys, axis=0) - keys, value(tokens)
        else:
            queries, keys, values = query(tokens[:1]), query(tokens[1:]), value(tokens[1:])
        found = ops.dot_product_attention(queries, keys, values)[..., 0, 0]
        found = found.reshape(-1, rows, height, width)
        found = jax.image.resize(found, (*found.shape[:2], *self.size), self.upsampling)
        if self.joint:
            return jax.nn.softmax(found, axis=0)
        return jnp.concatenate([jax.nn.sigmoid(-found), jax.nn.sigmoid(found)])


class AutoMix(Classification):
    """The model learns of images that masks mix, and masks of a slow copy of the model.

        weight * (CE(label) of x + CE(mixed labels) of stop(M) mixed)
            + generator * CE_k(mixed labels) of M' mixed + mask * relu(|mean M' - share| - slack)

    M are of one drawing, M' of another: two images each, shares from Beta(alpha, alpha), one for
    the batch. Masks come from the copy's maps of the images. The copy k, carried as the collection
    "momentum", takes no gradient, and the model none of the masks': each learns its own part of one
    loss. Plain images have a head of their own, as released, unless the model's serves both.
    Released for CIFAR-100 on ResNet-18: `embeds_shares=False`.

    Attributes:
      tap: path of the activation that masks are made of, at half the depth or more.
      alpha: of the Beta distribution.
      margin: a share this near to 0 or 1 mixes the model's images evenly, as mixup.
      generator: weight of what the masks learn.
      mask: weight of how far the mean mask is from its share.
      slack: which costs nothing.
      reduction: how much narrower queries and keys of the masks are than the activation.
      embeds_shares: whether the masks are told the shares, as a channel.
      upsampling: of the masks, "nearest" or "linear".
      shares_head: whether plain and mixed images have one head.
      momentum: share of the copy that an update keeps in the first tenth of the run.
      last_momentum: and at the end, to which it rises as a cosine.

    Source: Liu et al., AutoMix: Unveiling the Power of Mixup for Stronger Classifiers, 2022.
    """

    tap: str = "block_05/output"
    alpha: float = ranged(2.0, "(0, inf)")
    margin: float = ranged(0.08, "[0, 0.5]")
    generator: float = ranged(1.0, "(0, inf)")
    mask: float = ranged(0.1, "[0, inf)")
    slack: float = ranged(0.1, "[0, 1]")
    reduction: int = ranged(2, "[1, inf)")
    embeds_shares: bool = True
    upsampling: str = choice("nearest", UPSAMPLING)
    shares_head: bool = False
    momentum: float = ranged(0.999, "[0, 1]")
    last_momentum: float = ranged(0.999999, "[0, 1]")

    accumulates: ClassVar[bool] = False
    joint: ClassVar[bool] = False

    @property
    def count(self) -> int:
        """How many images are mixed."""
        return 2

    @nn.compact
    def __call__(self, batch: Batch, train: bool = False, teachers: Any = ()) -> Losses:
        """The losses of each example [B], by their names."""
        images = self.inputs(batch)
        counts = batch.get("mask", jnp.ones(len(images), bool))
        student = self.ask(images, train)
        if isinstance(student.logits, tuple):
            raise UserError(f"config.objective.name={self.config.name!r} needs a model of one head")
        # There is no copy yet where it is what is being initialised.
        told = student if self.is_initializing() else self.teach(images, train)
        maps = jax.lax.stop_gradient(as_map(told.tap(self.tap), self.tap))
        labels = self.distributions(batch["label"]).astype(maps.dtype)
        drawn = self.draw(self.make_rng("objective"), counts)
        # Those of both mixtures at once.
        read = jnp.concatenate([maps[each.index] for each in drawn], axis=1)
        shares = jnp.repeat(jnp.stack([each.shares for each in drawn], axis=1), len(images), axis=1)
        found = self.made(read, shares, images.shape[1:3], train)
        masks, for_model_masks = jnp.split(found, 2, axis=1)  # [N, B, Y, X]
        for_masks, for_model = drawn

        mixed = for_masks.mixed(images, masks[..., None].astype(images.dtype))
        answer = student if self.is_initializing() else self.teach(mixed, train)
        own_labels = for_masks.mixed(labels, for_masks.shares)
        loss = self.label_loss(answer.logits, own_labels)
        taught = self.generator * self.generated(loss, answer, told, for_masks)
        own_masks, apart = masks, self.apart(masks, for_masks.shares, counts)

        masks = jax.lax.stop_gradient(for_model_masks)
        share = for_model.shares[0]
        masks = self.adjusted(masks, share)
        evenly = (share <= self.margin) | (share >= 1 - self.margin)
        masks = jnp.where(evenly, for_model.shares[:, None, None, None], masks)
        mixed = for_model.mixed(images, masks[..., None].astype(images.dtype))
        mixed_labels = for_model.mixed(labels, for_model.shares)
        plain = self.plain_logits(student)
        weight = self.config.weight
        values = {
            "label": weight * self.plain_loss(plain, labels, images, for_model, train),
            "mixed": weight * self.label_loss(self.model(mixed, train=train), mixed_labels),
            "masks": taught,
        }
        if self.mask:
            off = jnp.maximum(apart - self.slack, 0) - self.contrast(own_masks, counts)
            values["mean_mask"] = jnp.broadcast_to(self.mask * off, loss.shape)
        metrics = {
            "accuracy": self.loss.is_correct(student.logits, batch["label"]),
            "mask_apart": jnp.broadcast_to(apart, loss.shape),
        }
        return Losses(values, student.logits, metrics)

    @nn.nowrap
    def made(
        self,
        maps: Float[Array, "N B y x C"],
        shares: Float[Array, "N B"],
        size: tuple[int, int],
        train: bool,
    ) -> Float[Array, "N B Y X"]:
        """Masks of the mixtures for the masks, and behind them of those for the model.

        Args:
          maps: of the images.
          shares: of each.
          size: of the masks.
          train: whether batch statistics work as in training.
        """
        names = ("reduction", "embeds_shares", "upsampling")
        fields = {name: getattr(self, name) for name in names}
        return MixMasks(size, self.joint, **fields, name="masks")(maps, shares)

    @nn.nowrap
    def adjusted(
        self, masks: Float[Array, "N B Y X"], share: Float[Array, ""]
    ) -> Float[Array, "N B Y X"]:
        """The masks of the model's mixtures, whose first has a share."""
        return masks

    @nn.nowrap
    def contrast(
        self, masks: Float[Array, "N B Y X"], counts: Bool[Array, " B"]
    ) -> Float[Array, ""] | float:
        """What masks gain by their contrast."""
        return 0.0

    @nn.nowrap
    def plain_logits(self, student: Told) -> Float[Array, "B C"]:
        """What the head of plain images says."""
        if self.shares_head:
            return student.logits
        features = student.tap("pre_logits")
        head = Dense(self.classes, ("embed", "classes"), dtype=features.dtype, name="plain_head")
        return head(features)

    @nn.nowrap
    def plain_loss(
        self,
        logits: Float[Array, "B C"],
        labels: Float[Array, "B C"],
        images: Float[Array, "B Y X C"],
        drawn: Drawn,
        train: bool,
    ) -> Float[Array, " B"]:
        """Of images that no mask mixes."""
        return self.label_loss(logits, labels)

    @nn.nowrap
    def generated(
        self, loss: Float[Array, " B"], answer: Told, told: Told, drawn: Drawn
    ) -> Float[Array, " B"]:
        """What the masks learn.

        Args:
          loss: of the copy on what they mixed.
          answer: what it says of that.
          told: what it says of the images.
          drawn: which are mixed.
        """
        return loss

    @nn.nowrap
    def draw(self, key: Array, counts: Bool[Array, " B"]) -> tuple[Drawn, Drawn]:
        """Images and shares, for the masks and for the model.

        Rows that do not count are mixed with none.
        """
        shares, orders = jax.random.split(key)
        rows = jnp.arange(len(counts))
        # Those that count, in any order, and the place of each row among them.
        chance = jax.random.uniform(orders, (2, self.count - 1, len(counts)))
        order = jnp.argsort(jnp.where(counts, chance, 2), axis=-1)
        index = jnp.where(counts, order[..., jnp.cumsum(counts) - 1], rows)
        index = jnp.pad(index, ((0, 0), (1, 0), (0, 0))).at[:, 0].set(rows)
        drawn = symmetric_beta(shares, self.alpha, (2, self.count))
        if self.count == 2:
            drawn = jnp.stack([drawn[:, 0], 1 - drawn[:, 0]], axis=1)
        drawn = drawn / jnp.sum(drawn, axis=1, keepdims=True)
        return tuple(Drawn(*each) for each in zip(index, drawn))

    @nn.nowrap
    def apart(
        self,
        masks: Float[Array, "N B Y X"],
        shares: Float[Array, " N"],
        counts: Bool[Array, " B"],
    ) -> Float[Array, ""]:
        """How far the batch's mean mask of the first images is from their share."""
        means = jnp.mean(masks[0], axis=(1, 2))
        mean = jnp.sum(jnp.where(counts, means, 0)) / jnp.maximum(jnp.sum(counts), 1)
        return jnp.abs(mean - shares[0])

    @nn.nowrap
    def teach(self, images: Float[Array, "B Y X C"], train: bool) -> Told:
        """What the copy says, with its taps; gradients flow to the images."""
        outputs, found = asked(
            self, "model", self.model.clone(), images, train, mutable=("intermediates",)
        )
        return Told(outputs, read_taps(found["intermediates"]))

    @nn.nowrap
    def distributions(self, labels: Array) -> Float[Array, "B C"]:
        """Labels as distributions over the classes."""
        if jnp.issubdtype(labels.dtype, jnp.integer):
            return jax.nn.one_hot(labels, self.classes, dtype=jnp.float32)
        return labels

    @property
    def reads_taps(self) -> bool:
        """The pooled features lie before the head."""
        return True

    @nn.nowrap
    def begin(self, params: Any, carried: dict[str, Any]) -> dict[str, Any]:
        """The copy begins as the model is."""
        carried = super().begin(params, carried)
        return {**carried, "momentum": begun(params, ("model",))}

    @nn.nowrap
    def after_update(self, params: Any, carried: dict[str, Any], step: Array) -> dict[str, Any]:
        """The copy takes a small step towards the model."""
        carried = super().after_update(params, carried, step)
        done = step / self.total_steps
        first, last = self.momentum, self.last_momentum
        risen = last - (last - first) * (jnp.cos(jnp.pi * done) + 1) / 2
        rate = 1 - jnp.where(done < 0.1, first, risen)
        return {**carried, "momentum": moved(carried["momentum"], params, rate)}

    @nn.nowrap
    def check(self) -> None:
        """Refuses what it could not heed.

        Raises:
          UserError: terms, teachers, labels by attention, or a loss of unmixed labels.
        """
        if self.terms or self.teachers or self.relabel:
            raise UserError(
                f"config.objective.name={self.config.name!r} teaches itself: it takes no terms, "
                "teachers or relabel"
            )
        if not self.loss.blends:
            raise UserError(self.loss.refusal("mixed"))


class AdAutoMix(AutoMix):
    """AutoMix of several images, whose masks are made in turn to help and to mislead.

        in even steps  generator * (-beta * CE_k + (1 - beta) * sum_i share_i cos(k(mixed), k(x_i)))
        in odd ones    generator * CE_k

    The plain images' loss is (1 - mixup) CE(x) + mixup CE(shares mixed evenly) where more than two
    are mixed, shares drawn from Beta(alpha, alpha) and divided by their sum. The sign of the
    cosines is that of the released code, by which a misleading mask brings the answer away from its
    sources; `keeps_meaning` turns it round, as the text argues.

    Attributes:
      samples: how many images are mixed.
      adversarial: whether there are misleading steps.
      beta: weight of the loss in these.
      keeps_meaning: whether these raise the cosines.
      mixup: share of evenly mixed images in the plain ones' loss.

    Reference: adautomix
    """

    alpha: float = ranged(1.0, "(0, inf)")
    margin: float = ranged(0.03, "[0, 0.5]")
    mask: float = ranged(0.0, "[0, inf)")
    upsampling: str = choice("linear", UPSAMPLING)
    samples: int = ranged(3, "[2, inf)")
    adversarial: bool = True
    beta: float = ranged(0.3, "[0, 1]")
    keeps_meaning: bool = False
    mixup: float = ranged(0.5, "[0, 1]")

    joint: ClassVar[bool] = True

    @property
    def count(self) -> int:
        """How many images are mixed."""
        return self.samples

    @nn.nowrap
    def plain_loss(
        self,
        logits: Float[Array, "B C"],
        labels: Float[Array, "B C"],
        images: Float[Array, "B Y X C"],
        drawn: Drawn,
        train: bool,
    ) -> Float[Array, " B"]:
        """Of images as they are, and of evenly mixed ones."""
        plain = self.label_loss(logits, labels)
        if self.samples == 2 or not self.mixup:
            return plain
        evenly = drawn.mixed(images, drawn.shares.astype(images.dtype))
        targets = drawn.mixed(labels, drawn.shares)
        mixed = self.label_loss(self.model(evenly, train=train), targets)
        return (1 - self.mixup) * plain + self.mixup * mixed

    @nn.nowrap
    def generated(
        self, loss: Float[Array, " B"], answer: Told, told: Told, drawn: Drawn
    ) -> Float[Array, " B"]:
        """What the masks learn, which changes from step to step."""
        if not self.adversarial or self.is_initializing():
            return loss
        mixed, sources = unit(accumulated(answer.logits)), unit(accumulated(told.logits))
        near = drawn.mixed(sources, drawn.shares)
        cosines = jnp.sum(mixed * near, axis=-1)
        cosines = -cosines if self.keeps_meaning else cosines
        misleads = self.get_variable("turn", "count") % 2 == 0
        return jnp.where(misleads, (1 - self.beta) * cosines - self.beta * loss, loss)

    @nn.nowrap
    def begin(self, params: Any, carried: dict[str, Any]) -> dict[str, Any]:
        """The copy, and whose turn it is."""
        carried = super().begin(params, carried)
        if not self.adversarial:
            return carried
        return {**carried, "turn": {"count": jnp.zeros((), jnp.int32)}}

    @nn.nowrap
    def after_update(self, params: Any, carried: dict[str, Any], step: Array) -> dict[str, Any]:
        """The copy's step, and the other's turn."""
        carried = super().after_update(params, carried, step)
        if not self.adversarial:
            return carried
        return {**carried, "turn": {"count": (step + 1).astype(jnp.int32) % 2}}
