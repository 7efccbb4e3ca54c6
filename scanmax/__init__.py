"""scanmax: token mixers in JAX and Flax (attention, state-space scans, softmax variants) and the models over them."""

from scanmax import ops as ops
from scanmax.models.registry import create_model as create_model
from scanmax.models.registry import list_models as list_models
from scanmax.models.registry import model_info as model_info
from scanmax.models.weights import load_weights as load_weights
from scanmax.version import __version__ as __version__
