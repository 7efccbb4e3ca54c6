"""TextCNN (Kim, 2014): filters over three, four and five words, and the largest answer of each.

The words of a sentence become vectors of 300 numbers, with four empty places on either side, as in
the author's code; 100 filters of each width, relu, the maximum over all places, one linear layer.
The variants differ in their tables of words alone. `rand` and `nonstatic` train theirs, the first
from random numbers, the second from vectors of another source; `static` keeps such vectors; and
`multichannel` has both tables, to each of which every filter is applied, the answers added.

A table that is kept gets no gradient; under weight decay name it besides:
`config.optim.freeze=("frozen/.*",)`. Vectors of one's own are put at
`variables["params"]["frozen" or "embed"]["embedding"]`.

Parameters, on MR with its 18,765 words and the padding, two classes:

    table, 18,766 x 300                              5,629,800, twice in multichannel
    filters, (3 + 4 + 5) x 300 x 100, biases 300       360,300
    head, 300 x 2 + 2                                      602

    >>> import scanmax
    >>> scanmax.create_model("textcnn_static", vocab_size=1000).tables
    ('frozen',)

Reference: textcnn
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scanmax.errors import UserError
from scanmax.models.blocks import rematerialised
from scanmax.models.language.text_host import TextHost
from scanmax.models.layers import fan_in_uniform, zeros_init
from scanmax.models.parts.conv_norm import ConvNorm
from scanmax.models.registry import Feature, Variant, register_family
from scanmax.models.taps import tap

TABLES = (("embed",), ("frozen",), ("frozen", "embed"))


class TextCnn(TextHost):
    """Tables of words, filters of several widths, the maximum of each, a head.

    Attributes:
      dim: width of a word's vector.
      widths: words that a filter reads.
      filters: how many of each width.
      tables: "embed" is trained, "frozen" is not; of two the vectors are added, which for filters
        that both share is to add their answers.
    """

    vocab_size: int = 18_766
    dim: int = 300
    widths: tuple[int, ...] = (3, 4, 5)
    filters: int = 100
    tables: tuple[str, ...] = ("embed",)

    @nn.compact
    def forward(self, tokens, train, as_maps=False):
        if self.tables not in TABLES:
            raise UserError(f"tables={self.tables} is not one of {', '.join(map(str, TABLES))}")
        init = fan_in_uniform(0.25, fan_in=1)
        vectors = [self.vectors_of(tokens, self.dim, name, init) for name in self.tables]
        if self.tables[0] == "frozen":
            vectors[0] = jax.lax.stop_gradient(vectors[0])
        x = tap(self, "stem", sum(vectors))
        if as_maps:
            return (x,)
        conv = rematerialised(ConvNorm, self.remat)
        beyond = max(self.widths) - 1
        pooled = [
            conv(
                self.filters,
                (width, 1),
                padding=((beyond, beyond), (0, 0)),
                use_bias=True,
                use_norm=False,
                kernel_init=fan_in_uniform(0.01, fan_in=1),
                name=f"conv{width}",
                **self.dtypes,
            )(x[:, :, None], train).max((1, 2))
            for width in self.widths
        ]
        x = jnp.concatenate(pooled, axis=-1)
        return self.classify(x, train, kernel_init=zeros_init)

    @nn.nowrap
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, stride and channels: the vectors of the words."""
        return (Feature("embed", 1, self.dim),)


def _variant(params: int, *tables: str) -> Variant:
    return Variant(params, (56,), "textcnn", {"tables": tables})


VARIANTS = {
    "textcnn_rand": _variant(5_990_702, "embed"),
    "textcnn_static": _variant(5_990_702, "frozen"),
    "textcnn_nonstatic": _variant(5_990_702, "embed"),
    "textcnn_multichannel": _variant(11_620_502, "frozen", "embed"),
}

register_family("textcnn", TextCnn, VARIANTS, input_kind="tokens")
