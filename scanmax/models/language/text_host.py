"""What classifiers of text share: tokens in, one answer for each text."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax.models.layers import Embed, Initializer, constrain_last, normal_init
from scanmax.models.vision.map_host import PlainHost


class TextHost(PlainHost):
    """A network whose `forward(tokens, train, as_maps)` gives logits, or the maps of `features`.

    Attributes:
      num_classes: width of the head; 0 gives the pooled features [B, C].
      vocab_size: tokens, padding included.
      pad_token: fills texts up to a common length; it says nothing.
      dropout_rate: before the head.
      remat: recompute activations backwards; a string names a jax.checkpoint_policies entry.
    """

    num_classes: int = 2
    vocab_size: int = 256
    pad_token: int = 0

    def __call__(self, tokens: Int[Array, "B T"], train: bool = False):
        """Logits [B, classes], or pooled features [B, C] without a head."""
        return self.forward(tokens, train)

    def features(
        self, tokens: Int[Array, "B T"], train: bool = False
    ) -> tuple[Float[Array, "B T C"], ...]:
        """The maps that `feature_info` names."""
        return self.forward(tokens, train, as_maps=True)

    def vectors_of(
        self,
        tokens: Int[Array, "B T"],
        dim: int,
        name: str = "embed",
        embedding_init: Initializer = normal_init,
    ) -> Float[Array, "B T D"]:
        """The vectors of the words; those of padding are zero. For compact methods."""
        table = Embed(self.vocab_size, dim, embedding_init=embedding_init, name=name, **self.dtypes)
        return constrain_last(jnp.where(self.is_word(tokens)[..., None], table(tokens), 0))

    def is_word(self, tokens: Int[Array, "B T"]) -> Bool[Array, "B T"]:
        """Which tokens are no padding."""
        return tokens != self.pad_token
