"""DCNN (Kalchbrenner et al., 2014): sentences of any length by k-max pooling that grows with them.

A sentence is a matrix of `dim` rows, one for each number of a word's vector, and as many columns as
words. A layer convolves every row by itself, over the ends too (wide), into several maps; keeps of
each row of each map the k largest values in their order, k by the length of the sentence and the
layer's place, at last a fixed number; adds a bias and takes the tanh. In the last layer pairs of
rows are added before the values are chosen (folding).

    k_l = max(k_top, ceil((L - l) / L * s)),  l = 1 .. L, s words

A padded sentence gives what it gives alone: rows of one batch have their own k, within the shape
that the longest would need.

Parameters, on the paper's 15,448 words and the padding, two classes (`sst_binary`):

    table, 15,449 x 48               741,552    filters, 5 x 6 x (48 rows x 14 maps)   20,160
    filters, 7 x (48 rows x 6 maps)    2,016    biases, 24 x 14                           336
    biases, 48 x 6                       288    head, 4 x 24 x 14 x 2 + 2               2,690

which is 767,042; `sst_fine` has widths 10 and 7, 6 and 12 maps, k_top 5 and five classes.

    >>> import scanmax
    >>> scanmax.create_model("dcnn_sst_binary").k_top
    4

Reference: dcnn-dynamic-kmax
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.blocks import rematerialised
from scanmax.models.language.text_host import TextHost
from scanmax.models.layers import Conv, fan_in_uniform, partitioned, zeros_init
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap
from scanmax.ops.contract import spread


class DcnnLayer(nn.Module):
    """Wide convolution of each row, folding where asked, k-max pooling, bias, tanh.

    Channels are rows, then the maps of each.

    Attributes:
      rows: rows of the sentence's matrix.
      maps: maps that each row becomes.
      width: columns that a filter reads.
      fold: pairs of rows are added.
      k: columns of the result.
    """

    rows: int
    maps: int
    width: int
    fold: bool
    k: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T C"],
        lengths: Int[Array, " B"],
        count: Int[Array, " B"],
    ) -> tuple[Float[Array, "B k F"], Int[Array, " B"]]:
        """The columns that are kept, zeros behind the `count` first, and how many they are."""
        beyond = self.width - 1
        x = Conv(
            self.rows * self.maps,
            (self.width, 1),
            padding=((beyond, beyond), (0, 0)),
            groups=self.rows,
            use_bias=False,
            kernel_init=fan_in_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="conv",
        )(x[:, :, None])[:, :, 0]
        if self.fold:
            rows = ops.fold_rows(x.reshape(*x.shape[:2], self.rows, self.maps))
            x = rows.reshape(*x.shape[:2], self.rows // 2 * self.maps)
        lengths = lengths + beyond
        columns = jnp.arange(x.shape[1])[None] < lengths[:, None]
        count = jnp.minimum(count, lengths)
        x = ops.k_max_pool(x, self.k, where=columns, count=count)
        init = partitioned(zeros_init, ("conv_out",))
        bias = self.param("bias", init, x.shape[-1:], self.param_dtype)
        x = jnp.tanh(x + spread(bias.astype(x.dtype), x))
        return jnp.where((jnp.arange(self.k)[None] < count[:, None])[..., None], x, 0), count


class Dcnn(TextHost):
    """A table of words, layers of wide convolution and k-max pooling, a head.

    Attributes:
      dim: rows of the sentence's matrix, even.
      widths: columns that the filters of each layer read.
      maps: maps of each layer.
      k_top: columns behind the last layer, and the least behind any.
    """

    vocab_size: int = 15_449
    dim: int = 48
    widths: tuple[int, ...] = (7, 5)
    maps: tuple[int, ...] = (6, 14)
    k_top: int = 4

    @nn.compact
    def forward(self, tokens, train, as_maps=False):
        layers = len(self.widths)
        if len(self.maps) != layers:
            raise UserError(
                f"widths={self.widths} and maps={self.maps} must name as many layers each"
            )
        if self.dim % 2 or self.k_top < 1:
            raise UserError(
                f"dim={self.dim}, k_top={self.k_top}: folding takes pairs of rows, and a column "
                "must be left"
            )
        x = tap(self, "stem", self.vectors_of(tokens, self.dim))
        if as_maps:
            return (x,)
        length = tokens.shape[1]
        places = jnp.arange(1, length + 1)
        words = jnp.where(self.is_word(tokens), places[None], 0).max(1)
        found = words
        layer = rematerialised(DcnnLayer, self.remat, static=())
        for index, (width, maps) in enumerate(zip(self.widths, self.maps)):
            place = {"layer": index + 1, "layers": layers, "top": self.k_top}
            x, found = layer(
                self.dim,
                maps,
                width,
                fold=index == layers - 1,
                k=max(self.k_top, -(-(layers - 1 - index) * length // layers)),
                name=f"layer{index}",
                **self.dtypes,
            )(x, found, ops.dynamic_k(words, **place))
        x = x.reshape(x.shape[0], x.shape[1] * x.shape[2])
        return self.classify(x, train, kernel_init=fan_in_uniform())

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels: the sentence's matrix."""
        return (Feature("embed", 1, self.dim),)


_FINE = {"num_classes": 5, "widths": (10, 7), "maps": (6, 12), "k_top": 5}
VARIANTS = {
    "dcnn_sst_binary": Variant(767_042, (56,), "dcnn-dynamic-kmax", {}),
    "dcnn_sst_fine": Variant(776_405, (56,), "dcnn-dynamic-kmax", _FINE),
}

register_family("dcnn", Dcnn, VARIANTS, input_kind="tokens")
