"""Changes of the parameters before they are used; `config.transforms` names some of TRANSFORMS.

A transform is a frozen dataclass, its fields the options, called with `(params, state) -> params`;
it is the same in training, in evaluation and in what is exported. Its rules are regular expressions
searched for in paths such as "model/block_00/mlp/fc1/kernel"; one that matches nothing is an error.
"""

from scanmax.public import shown
from scanmax.train.transforms.base import Transform, transformed
from scanmax.train.transforms.fake_quantize import FakeQuantize

TRANSFORMS: dict[str, type[Transform]] = {"fake_quantize": FakeQuantize}

__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
