"""A network and data as small as they can be and still hang on every plug point of the trainer."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax.models.taps import tap


class SmallNet(nn.Module):
    """Images as rows of numbers, a hidden layer with taps, a head.

    Attributes:
      num_classes: width of the head; 0 gives the hidden layer [B, width].
      width: of the hidden layer.
      two_heads: training returns a pair, as a model with a distillation token does.
    """

    num_classes: int = 4
    width: int = 8
    two_heads: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        self.embed = self._dense(self.width, ("conv_in", "embed"))
        self.hidden = self._dense(self.width, ("embed", "mlp"))
        self.head = self._dense(max(1, self.num_classes), ("embed", "classes"))
        self.head_dist = self._dense(max(1, self.num_classes), ("embed", "classes"))

    def __call__(self, x: Float[Array, "B Y X C"], train: bool = False):
        """Logits [B, classes], or a pair of them in training."""
        x = self.embed(x.reshape(x.shape[0], -1).astype(self.dtype))
        x = tap(self, "stem", x)
        x = tap(self, "output", x + self.hidden(jax.nn.gelu(x)))
        if not self.num_classes:
            return x
        if not self.two_heads:
            return self.head(x)
        logits = self.head(x), self.head_dist(x)
        return logits if train else (logits[0] + logits[1]) / 2

    def features(self, x: Float[Array, "B Y X C"], train: bool = False):
        """One map, whose channels are those of the image by the hidden layer's first entries."""
        hidden = self.embed(x.reshape(x.shape[0], -1).astype(self.dtype))
        return (x.astype(self.dtype)[..., :1] * hidden[:, None, None, :],)

    def _dense(self, width, axes):
        init = nn.with_logical_partitioning(nn.initializers.normal(0.4), axes)
        return nn.Dense(width, kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype)


class SmallText(nn.Module):
    """Texts as the mean of their words' vectors, a hidden layer, a head.

    Attributes:
      num_classes: width of the head; 0 gives the hidden layer [B, width].
      vocab_size: words.
      width: of the hidden layer.
    """

    num_classes: int = 2
    vocab_size: int = 7
    width: int = 8
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], train: bool = False) -> Float[Array, "B K"]:
        """Logits, or the hidden layer."""
        init = nn.with_logical_partitioning(nn.initializers.normal(0.6), ("vocab", "embed"))
        table = self.param("embed", init, (self.vocab_size, self.width), self.param_dtype)
        words = tap(self, "stem", table.astype(self.dtype)[tokens])
        x = tap(self, "output", jnp.tanh(words.mean(axis=1)))
        if not self.num_classes:
            return x
        return nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype)(x)


class SmallMaps(nn.Module):
    """Four patches of an image that attend to each other, their mean, a head; taps of each.

    Attributes:
      num_classes: width of the head.
      width: of the patches.
    """

    num_classes: int = 4
    width: int = 8
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        self.embed = self._dense(self.width, ("conv_in", "embed"))
        self.query = self._dense(self.width, ("embed", "mlp"))
        self.hidden = self._dense(self.width, ("embed", "mlp"))
        self.head = self._dense(self.num_classes, ("embed", "classes"))

    def __call__(self, x: Float[Array, "B Y X C"], train: bool = False) -> Float[Array, "B K"]:
        rows, channels = x.shape[0], x.shape[-1]
        x = x.reshape(rows, 2, 2, 2, 2, channels).swapaxes(2, 3).reshape(rows, 4, 4 * channels)
        x = tap(self, "stem", self.embed(x.astype(self.dtype)))
        query = self.query(x)
        for name, value in (("queries", query), ("keys", x), ("values", x)):
            self.sow("intermediates", name, value[:, :, None])
        scores = query @ x.swapaxes(1, 2)
        weights = jax.nn.softmax(scores.astype(jnp.promote_types(self.dtype, jnp.float32)))
        self.sow("intermediates", "attention", weights[:, None])
        x = tap(self, "output", x + self.hidden(jax.nn.gelu(weights.astype(self.dtype) @ x)))
        return self.head(tap(self, "pre_logits", jnp.mean(x, axis=1)))

    def _dense(self, width, axes):
        init = nn.with_logical_partitioning(nn.initializers.normal(0.4), axes)
        return nn.Dense(width, kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype)


class SmallImages:
    """Images [B, 4, 4, 1] of four classes; what a batch holds is a function of its step.

    Args:
      batch_size: rows.
      views: more than one gives [B, V, 4, 4, 1].
    """

    kind = "image"
    num_classes = 4
    class_names = ("a", "b", "c", "d")
    num_train, num_eval = 64, 21
    normalisation = (np.zeros(1, np.float32), np.ones(1, np.float32))

    def __init__(self, batch_size: int = 16, views: int = 1):
        self.batch_size, self.views = batch_size, views

        def spec(*shape):
            return {
                "image": jax.ShapeDtypeStruct((batch_size, *shape, 4, 4, 1), np.float32),
                "label": jax.ShapeDtypeStruct((batch_size,), np.int32),
                "mask": jax.ShapeDtypeStruct((batch_size,), np.bool_),
            }

        self.train_spec, self.eval_spec = spec(*(views,) * (views > 1)), spec()

    def train_iterator(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Batches without end."""
        while True:
            yield self._make(start_step, self.batch_size, self.views)
            start_step += 1

    def eval_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The held-out part; its padding is NaN."""
        return self._padded(10_000, self.num_eval)

    def train_eval_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The training part as it is evaluated."""
        return self._padded(20_000, self.num_train)

    def to_display(self, images: np.ndarray) -> np.ndarray:
        """uint8"""
        return np.clip(np.nan_to_num(images) * 40 + 100, 0, 255).astype(np.uint8)

    def baselines(self) -> dict[str, float]:
        """None."""
        return {}

    def _make(self, seed, count, views):
        rng = np.random.default_rng(seed)
        label = rng.integers(0, 4, count).astype(np.int32)
        image = rng.normal(size=(count, views, 4, 4, 1)).astype(np.float32)
        image[np.arange(count), :, label, 0, 0] += 3
        image = image[:, 0] if views == 1 else image
        return {"image": image, "label": label, "mask": np.ones(count, bool)}

    def _padded(self, seed, count):
        whole = self._make(seed, count, 1)
        for start in range(0, count, self.batch_size):
            part = {name: rows[start : start + self.batch_size] for name, rows in whole.items()}
            short = self.batch_size - len(part["label"])
            part = {
                name: np.pad(rows, [(0, short)] + [(0, 0)] * (rows.ndim - 1))
                for name, rows in part.items()
            }
            # Padding must not count, whatever it holds.
            part["image"][~part["mask"]] = np.nan
            yield part


class SmallPairs(SmallImages):
    """The images of `SmallImages` with four words on each, of which the first names its class."""

    kind = "image_text"
    vocab_size, text_length = 7, 4
    class_tokens = np.stack([np.full((1, 4), label) for label in range(4)]).astype(np.int32)

    def __init__(self, batch_size: int = 16, views: int = 1):
        super().__init__(batch_size, views)
        tokens = {"tokens": jax.ShapeDtypeStruct((batch_size, self.text_length), np.int32)}
        self.train_spec, self.eval_spec = self.train_spec | tokens, self.eval_spec | tokens

    def _make(self, seed, count, views):
        batch = super()._make(seed, count, views)
        tokens = np.random.default_rng((seed, 1)).integers(4, 7, (count, self.text_length))
        tokens[:, 0] = batch["label"]
        return batch | {"tokens": tokens.astype(np.int32)}
