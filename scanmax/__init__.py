"""scanmax: token mixers in JAX and Flax, and the models over them."""

import os
from typing import TYPE_CHECKING

from scanmax import ops as ops
from scanmax.models import create_model as create_model
from scanmax.models import list_mixers as list_mixers
from scanmax.models import list_models as list_models
from scanmax.models import load_weights as load_weights
from scanmax.models import mixer_info as mixer_info
from scanmax.models import model_info as model_info
from scanmax.models import save_weights as save_weights
from scanmax.public import shown as _shown
from scanmax.version import __version__ as __version__

if TYPE_CHECKING:
    from scanmax.train.inference import Trained


def load(workdir: str | os.PathLike, step: int | str = "last") -> "Trained":
    """Reads the trained model of a run, ready to predict.

    Args:
      workdir: folder of a run.
      step: a checkpoint's step, "last", or "best" by the metric that the run's config names.

    Returns:
      What `scanmax.train.inference.load_for_inference` gives: `predict`, `model`, `variables`,
      `config`, `data`.

    Raises:
      UserError: no such checkpoint, or one that cannot be read.

    Example:
      trained = scanmax.load("runs/pets"); trained.predict("cat.png").name
    """
    # Imported here: who only wants an op or a model does not wait for the trainer.
    from scanmax.train.inference import load_for_inference

    return load_for_inference(workdir, step)


__all__ = _shown(globals(), "ops", "__version__")


def __dir__() -> list[str]:
    return __all__
