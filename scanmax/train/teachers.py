"""Teachers: models that are asked and never trained, each with images as it was taught them."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from scanmax.errors import UserError, suggest
from scanmax.models.taps import read_taps

OPTIONS = ("weights", "step", "kwargs", "mean", "std", "image_size")


class Told(NamedTuple):
    """What a model says of a batch.

    Attributes:
      logits: its outputs, [B, classes] or [B, T, vocab].
      taps: activations by path, "block_03/output"; {} unless a term reads taps.
    """

    logits: Array
    taps: dict[str, Array]

    def tap(self, path: str) -> Array:
        """The activation at a path.

        Raises:
          UserError: no such tap; the message lists near matches.
        """
        if path not in self.taps:
            raise UserError(f"the model has no tap {path!r}; {suggest(path, self.taps)}")
        return self.taps[path]


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model to learn from. Its variables are arguments of the step, and never checkpointed.

    Attributes:
      name: of the registered model.
      model: the module.
      weights: source of its weights: the workdir of a run, or what scanmax.load_weights takes.
      step: which checkpoint of a run, "last", "best" or its step.
      scale: factor per channel from the student's normalisation to its own; () changes nothing.
      shift: added behind it.
      image_size: side that images are resized to for it; 0 keeps the student's.
      reads_taps: whether its activations are read.
    """

    name: str
    model: nn.Module
    weights: str = ""
    step: str | int = "last"
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    image_size: int = 0
    reads_taps: bool = False

    def __call__(self, variables: Any, inputs: Array) -> Told:
        """Asks it, in evaluation mode; no gradient flows."""
        inputs = self.prepare(inputs)
        if self.reads_taps:
            logits, sown = self.model.apply(variables, inputs, mutable=["intermediates"])
            told = Told(logits, read_taps(sown.get("intermediates", {})))
        else:
            told = Told(self.model.apply(variables, inputs), {})
        return jax.lax.stop_gradient(told)

    def prepare(self, inputs: Array) -> Array:
        """The student's inputs as the teacher was taught them."""
        if self.scale:
            scale, shift = (jnp.asarray(part, inputs.dtype) for part in (self.scale, self.shift))
            inputs = inputs * scale + shift
        if self.image_size and inputs.shape[1:3] != (self.image_size,) * 2:
            shape = (inputs.shape[0], self.image_size, self.image_size, inputs.shape[-1])
            inputs = jax.image.resize(inputs, shape, "bicubic")
        return inputs

    def example(self, inputs: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """Shape of what its model reads, given what the student's reads."""
        return jax.eval_shape(self.prepare, inputs)

    def variable_shapes(self, inputs: jax.ShapeDtypeStruct) -> Any:
        """Shapes of its variables."""
        example = self.example(inputs)
        zeros = lambda: jnp.zeros(example.shape, example.dtype)  # noqa: E731
        try:
            init = jax.eval_shape(lambda: self.model.init(jax.random.key(0), zeros()))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"config.objective.teachers: {self.name!r} does not take inputs "
                f"{tuple(example.shape)}: {error}"
            ) from error
        shapes = nn.meta.unbox(init)
        return {name: shapes[name] for name in ("params", "batch_stats") if name in shapes}


def change_of_normalisation(
    field: str, options: dict[str, Any], normalisation: Any
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(scale, shift) from the data's mean and deviation to a teacher's own.

        (image - mean_t) / std_t = x * (std / std_t) + (mean - mean_t) / std_t

    Raises:
      UserError: only one of mean and std, or data whose normalisation is not known.
    """
    given = [name for name in ("mean", "std") if options.get(name)]
    if not given:
        return (), ()
    if len(given) == 1:
        raise UserError(f"{field} gives {given[0]!r} alone; a teacher's own takes 'mean' and 'std'")
    if normalisation is None:
        raise UserError(f"{field}: these data do not say how they are normalised")
    mean, std = (np.asarray(part, np.float64) for part in normalisation)
    own_mean, own_std = (np.asarray(options[name], np.float64) for name in ("mean", "std"))
    if np.any(own_std <= 0):
        raise UserError(f"{field}: std={options['std']} must be above 0")
    scale, shift = np.broadcast_arrays(std / own_std, (mean - own_mean) / own_std)
    return tuple(np.atleast_1d(scale).tolist()), tuple(np.atleast_1d(shift).tolist())
