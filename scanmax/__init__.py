"""scanmax: token mixers in JAX and Flax, and the models over them."""

from scanmax.version import __version__ as __version__
