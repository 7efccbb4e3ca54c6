"""What stands on the pooled features of an image model in the place of its own head."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.models.layers import BatchNorm, Dense
from scanmax.models.statistics import at_least_float32
from scanmax.models.towers import unit


class DualHead(nn.Module):
    """Two heads on the same features, one of labels and one of a teacher's answers.

        log(a softmax(labels) + (1 - a) softmax(taught / b))

    Attributes:
      image: a model with num_classes=0.
      num_classes: of either head.
      share: a, of the head of labels in the answer.
      temperature: b, of the other head there.

    Reference: dho-dual-head
    """

    image: nn.Module
    num_classes: int
    share: float = 0.5
    temperature: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.label_head = Dense(self.num_classes, ("embed", "classes"), **types)
        self.taught_head = Dense(self.num_classes, ("embed", "classes"), **types)

    def __call__(self, images: Float[Array, "B Y X C"], train: bool = False):
        """Both heads' logits in training; the logarithms of their mixture else."""
        features = self.image(images, train=train)
        labels, taught = self.label_head(features), self.taught_head(features)
        if train:
            return labels, taught
        dtype = at_least_float32(labels.dtype)
        logs = jnp.stack(
            [
                jax.nn.log_softmax(labels.astype(dtype)),
                jax.nn.log_softmax(taught.astype(dtype) / self.temperature),
            ]
        )
        shares = jnp.asarray([self.share, 1 - self.share], dtype)
        return jax.nn.logsumexp(logs, axis=0, b=shares[:, None, None])


class UnitProjection(nn.Module):
    """Unit vectors of an image model's features, by two layers into a space of others.

    Attributes:
      image: a model with num_classes=0.
      dim: of the space.
      hidden: width between the layers.
      batch_norm: a batch norm and relu between them, as PromptKD has them; else gelu.

    Reference: promptkd
    """

    image: nn.Module
    dim: int
    hidden: int
    batch_norm: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B Y X C"], train: bool = False) -> Float[Array, "B E"]:
        """In float32 or wider."""
        init = nn.initializers.lecun_normal()
        fields = {"kernel_init": init, "dtype": self.dtype, "param_dtype": self.param_dtype}
        # A norm has its own shift.
        fc0 = {"name": "fc0", "use_bias": not self.batch_norm, **fields}
        x = Dense(self.hidden, ("embed", "mlp"), **fc0)(self.image(images, train=train))
        if self.batch_norm:
            types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            x = nn.relu(BatchNorm(name="norm0", **types)(x, train=train))
        else:
            x = nn.gelu(x)
        return unit(Dense(self.dim, ("mlp", "embed"), name="fc1", **fields)(x))
