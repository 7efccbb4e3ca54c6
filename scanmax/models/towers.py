"""Two towers: any image model and any text model, whose embeddings meet in one space."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError
from scanmax.models.layers import Dense
from scanmax.models.statistics import at_least_float32
from scanmax.models.taps import tap
from scanmax.ops.attention.cosine import unit_vectors


class Pairs(NamedTuple):
    """What two towers say of images and texts.

    Attributes:
      image: [B, E] of length 1, float32 or wider.
      text: [B, E] likewise.
      scale: what cosines are multiplied by.
      bias: what is added then; 0 where none is learned.
    """

    image: Float[Array, "B E"]
    text: Float[Array, "B E"]
    scale: Float[Array, ""]
    bias: Float[Array, ""]

    @property
    def logits(self) -> Float[Array, "B B"]:
        """scale cos(image i, text j) + bias."""
        return similarities(self.image, self.text) * self.scale + self.bias


class TwoTowers(nn.Module):
    """Images and texts to unit vectors of one space, with the scale of their cosines.

    The image model gives pooled features, without its head. A text model that classifies gives
    its own; of a language model it is the hidden state of the last token that is no padding. Either
    is projected linearly.

    Attributes:
      image: a model of images with num_classes=0.
      text: a model of tokens; a classifier with num_classes=0.
      dim: E.
      text_length: tokens of a text.
      pad_token: fills texts behind their end.
      init_scale: of the cosines.
      max_scale: the scale grows no further.
      init_bias: of the logits; None learns none.

    Example:
      >>> import scanmax
      >>> small = {"img_size": 8, "patch_size": 4, "dim": 8, "depth": 1, "heads": 2}
      >>> image = scanmax.create_model("deit_tiny_patch16_224", num_classes=0, **small)
      >>> text = scanmax.create_model("lm_tiny", vocab_size=11, dim=8, depth=1, heads=2)
      >>> model = TwoTowers(image, text, dim=6, text_length=5)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
      >>> found = model.apply(variables, jnp.ones((2, 8, 8, 3)), tokens=jnp.ones((2, 5), int))
      >>> found.image.shape, found.text.shape, found.logits.shape
      ((2, 6), (2, 6), (2, 2))
    """

    image: nn.Module
    text: nn.Module
    dim: int = 512
    text_length: int = 64
    pad_token: int = 0
    init_scale: float = 1 / 0.07
    max_scale: float = 100.0
    init_bias: float | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        fields = {
            "axes": ("embed", "mlp"),
            "use_bias": False,
            "kernel_init": nn.initializers.lecun_normal(),
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        self.image_projection = Dense(self.dim, **fields)
        self.text_projection = Dense(self.dim, **fields)

        def scalar(name, value):
            return self.param(name, nn.initializers.constant(value), (), self.param_dtype)

        self.logit_scale = scalar("logit_scale", math.log(self.init_scale))
        if self.init_bias is not None:
            self.logit_bias = scalar("logit_bias", self.init_bias)

    def __call__(
        self,
        images: Float[Array, "B Y X C"],
        train: bool = False,
        tokens: Int[Array, "B T"] | None = None,
    ):
        """Pairs; of images alone their embeddings [B, E]."""
        image = self.encode_image(images, train)
        if tokens is None:
            if not self.is_initializing():
                return image
            tokens = jnp.zeros((images.shape[0], self.text_length), jnp.int32)
        return Pairs(image, self.encode_text(tokens, train), *self.scale_and_bias(image.dtype))

    def scale_and_bias(self, dtype: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """What cosines are multiplied by, and what is added then."""
        scale = jnp.exp(no_higher(self.logit_scale.astype(dtype), math.log(self.max_scale)))
        if self.init_bias is None:
            return scale, jnp.zeros((), dtype)
        return scale, self.logit_bias.astype(dtype)

    def encode_image(
        self, images: Float[Array, "B Y X C"], train: bool = False
    ) -> Float[Array, "B E"]:
        """Unit vectors of images.

        Raises:
          UserError: the image model gives no pooled features.
        """
        found = self.image(images, train=train)
        if isinstance(found, tuple) or found.ndim != 2:
            raise UserError(
                f"two towers read pooled features [B, D]; {type(self.image).__name__} gives others "
                "without its head"
            )
        return unit(self.image_projection(tap(self, "image_features", found)))

    def encode_text(self, tokens: Int[Array, "B T"], train: bool = False) -> Float[Array, "B E"]:
        """Unit vectors of texts."""
        if hasattr(self.text, "num_classes"):
            found = self.text(tokens, train=train)
        else:
            hidden = self.text.features(tokens, train=train)[-1]
            # Counted from the end: a text may hold the padding's token, and ends with another.
            behind = jnp.argmax(tokens[:, ::-1] != self.pad_token, axis=1)
            last = tokens.shape[1] - 1 - behind
            found = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        return unit(self.text_projection(tap(self, "text_features", found)))

    def class_vectors(self, class_tokens: Int[Array, "C P T"]) -> Float[Array, "C E"]:
        """Unit vectors of classes, each the direction of the mean of its captions."""
        classes, captions, length = class_tokens.shape
        found = self.encode_text(class_tokens.reshape(classes * captions, length))
        return unit(found.reshape(classes, captions, self.dim).mean(axis=1))

    @property
    def words(self) -> int:
        """Tokens that the text model knows."""
        return self.text.vocab_size


class Named(NamedTuple):
    """What two towers say of images whose classes have captions.

    Attributes:
      logits: [B, C] the scaled cosines with the vectors of classes.
      image: [B, E] of length 1.
      classes: [C, E] of length 1.
      scale: what cosines are multiplied by.
    """

    logits: Float[Array, "B C"]
    image: Float[Array, "B E"]
    classes: Float[Array, "C E"]
    scale: Float[Array, ""]


@dataclasses.dataclass(frozen=True, eq=False)
class Captions:
    """Captions of classes, [C, P, T], that a module may hold."""

    tokens: np.ndarray


class ZeroShot(TwoTowers):
    """The same towers as a classifier of images, by captions of the classes.

    The vectors of classes are found anew in each call, unless its variables hold them (`settled`).

    Attributes:
      captions: of the classes.
      whole: whether it gives Named, not the logits alone.
    """

    captions: Captions | None = None
    whole: bool = False

    def __call__(self, images: Float[Array, "B Y X C"], train: bool = False):
        """Logits [B, C], or Named."""
        image = self.encode_image(images, train)
        if self.has_variable("class_vectors", "vectors"):
            classes = self.get_variable("class_vectors", "vectors")
        else:
            classes = self.class_vectors(jnp.asarray(self.captions.tokens))
        scale, bias = self.scale_and_bias(image.dtype)
        logits = similarities(image, classes) * scale + bias
        return Named(logits, image, classes, scale) if self.whole else logits

    @nn.nowrap
    def settled(self, variables: Any) -> dict[str, Any]:
        """Variables of a frozen model with the vectors of classes: no text is read again."""
        find = jax.jit(functools.partial(self.apply, method="class_vectors"))
        vectors = find(variables, jnp.asarray(self.captions.tokens))
        return {**variables, "class_vectors": {"vectors": vectors}}


def similarities(x: Float[Array, "B E"], y: Float[Array, "C E"]) -> Float[Array, "B C"]:
    """Products of all rows of x with all of y, at the highest precision."""
    return jnp.matmul(x, y.T, precision="highest")


def unit(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Vectors of length 1, in float32 or wider."""
    return unit_vectors(x.astype(at_least_float32(x.dtype)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def no_higher(x: Float[Array, ""], bound: float) -> Float[Array, ""]:
    """min(x, bound), which a descent cannot push higher and can bring down again.

    CLIP cuts its scale off behind each update. The gradient of a plain minimum is zero above the
    bound, where a parameter would stay for good; here one that leads back below passes.
    """
    return jnp.minimum(x, bound)


def _no_higher_forward(x, bound):
    return jnp.minimum(x, bound), x < bound


def _no_higher_backward(bound, below, slope):
    return (jnp.where(below | (slope > 0), slope, 0),)


no_higher.defvjp(_no_higher_forward, _no_higher_backward)
