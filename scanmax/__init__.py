"""scanmax: token mixers in JAX and Flax, and the models over them."""

from scanmax import ops as ops
from scanmax.models import create_model as create_model
from scanmax.models import list_models as list_models
from scanmax.models import load_weights as load_weights
from scanmax.models import model_info as model_info
from scanmax.models import save_weights as save_weights
from scanmax.version import __version__ as __version__
