"""Teachers: models that are asked and never trained, each with images as it was taught them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from scanmax.errors import UserError, suggest
from scanmax.models.taps import read_taps, write_tap

OPTIONS = ("weights", "step", "kwargs", "mean", "std", "image_size", "stored", "top", "towers")


class Told(NamedTuple):
    """What a model says of a batch.

    Attributes:
      logits: its outputs, [B, classes] or [B, T, vocab].
      taps: activations by path, "block_03/output"; {} unless a term reads taps.
      resume: what it says if an activation is another, (path, value) -> Told, through which
        gradients flow to the value (of a student, to the parameters behind it too); None where no
        term reads taps.
    """

    logits: Array
    taps: dict[str, Array]
    resume: Callable[[str, Array], "Told"] | None = None

    def tap(self, path: str) -> Array:
        """The activation at a path.

        Raises:
          UserError: no such tap; the message lists near matches.
        """
        if path not in self.taps:
            raise UserError(f"the model has no tap {path!r}; {suggest(path, self.taps)}")
        return self.taps[path]


def replaced_tap(sown: Any, path: str, value: Array) -> dict[str, Any]:
    """The collection under which an activation is another.

    Args:
      sown: intermediates of the same inputs.
      path: of the tap.
      value: what it shall be.

    Raises:
      UserError: no such tap, or another shape.
    """
    found = Told(None, read_taps(sown)).tap(path)
    if value.shape != found.shape:
        raise UserError(f"tap {path!r} has shape {found.shape}, and what replaces it {value.shape}")
    return write_tap(sown, path, value.astype(found.dtype))


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

    What a subclass says of itself:
      has_taps: whether there are any to read, and a guide of a mix.
    """

    name: str
    model: nn.Module
    weights: str = ""
    step: str | int = "last"
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    image_size: int = 0
    reads_taps: bool = False

    has_taps: ClassVar[bool] = True

    def __call__(
        self, variables: Any, inputs: Array, index: Array | None = None, **beside: Array
    ) -> Told:
        """Asks it, in evaluation mode; no gradient flows, but through what `resume` is given.

        Args:
          variables: its own.
          inputs: what the student reads.
          index: places of the examples in the training part; it sees them itself.
          beside: what its model reads by keyword.
        """
        variables, inputs = jax.lax.stop_gradient((variables, self.prepare(inputs)))
        if not self.reads_taps:
            return Told(jax.lax.stop_gradient(self.model.apply(variables, inputs, **beside)), {})
        logits, sown = self.model.apply(variables, inputs, mutable=["intermediates"], **beside)
        logits, sown = jax.lax.stop_gradient((logits, sown.get("intermediates", {})))
        told = Told(logits, read_taps(sown))
        resume = functools.partial(self.resume, variables, inputs, sown, **beside)
        return told._replace(resume=resume)

    def resume(
        self, variables: Any, inputs: Array, sown: Any, path: str, value: Array, **beside: Array
    ) -> Told:
        """What it says of the inputs if the activation at a path is `value`.

        Its layers behind the path are gone through again; gradients flow to the value.

        Args:
          variables: its own.
          inputs: as prepared for it.
          sown: its intermediates of these inputs.
          path: of a tap, such as "block_03/output".
          value: of that tap's shape.
          beside: what its model reads by keyword.
        """
        replaced = replaced_tap(sown, path, value)
        logits, found = self.model.apply(
            {**variables, "replaced": replaced}, inputs, mutable=["intermediates"], **beside
        )
        return Told(logits, read_taps(found["intermediates"]))

    def settle(self, variables: Any) -> Any:
        """Its variables, with what need not be found anew in each step where its model says so."""
        settled = getattr(self.model, "settled", None)
        return variables if settled is None else settled(variables)

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


@dataclasses.dataclass(frozen=True)
class StoredTeacher(Teacher):
    """A teacher that has answered: its variables are a table of what it said of each example.

    Attributes:
      stored: the file of its answers.
      top: how many of the largest are kept; the rest of the mass is spread evenly.
      examples: how many training examples there are.
      classes: how many answers there are of each.
    """

    stored: str = ""
    top: int = 0
    examples: int = 0
    classes: int = 0

    has_taps: ClassVar[bool] = False

    def __call__(
        self, variables: Any, inputs: Array, index: Array | None = None, **beside: Array
    ) -> Told:
        """What it said of the examples, as logarithms of a distribution."""
        classes, logs = (variables[name][index] for name in ("classes", "logs"))
        shape = (len(index), self.classes)
        if self.top == self.classes:
            rest = jnp.zeros((len(index), 1), logs.dtype)
        else:
            mass = 1 - jnp.sum(jnp.exp(logs), axis=-1, keepdims=True)
            smallest = jnp.finfo(logs.dtype).tiny
            rest = jnp.log(jnp.maximum(mass, smallest) / (self.classes - self.top))
        rows = jnp.arange(len(index))[:, None]
        told = jnp.broadcast_to(rest, shape).at[rows, classes].set(logs)
        return Told(jax.lax.stop_gradient(told), {})

    def ask(self, variables: Any, inputs: Array) -> Array:
        """What the model itself says, of its own variables."""
        return Teacher.__call__(self, variables, inputs).logits

    def variable_shapes(self, inputs: jax.ShapeDtypeStruct) -> Any:
        """Shapes of the table."""
        shape = (self.examples, self.top)
        return {
            "classes": jax.ShapeDtypeStruct(shape, jnp.int32),
            "logs": jax.ShapeDtypeStruct(shape, jnp.float32),
            "accuracy": jax.ShapeDtypeStruct((), jnp.float32),
        }


def stored_fields(
    pipeline: Any, options: dict[str, Any], field: str, *, blends: bool
) -> dict[str, Any]:
    """What a teacher's answers on disk are of.

    Args:
      pipeline: the data.
      options: the teacher's.
      field: what names it in a message.
      blends: whether the run mixes examples.

    Raises:
      UserError: examples without an index, mixed ones, or more answers than classes.
    """
    spec, classes = pipeline.train_spec, pipeline.num_classes
    if pipeline.kind != "image" or "index" not in spec:
        raise UserError(f"{field}: stored answers are of images that say their 'index' in a batch")
    if blends or len(spec["label"].shape) == 2:
        raise UserError(f"{field}: stored answers are of single images: mix none, or ask it itself")
    top = options.get("top", min(10, classes))
    if not isinstance(top, int) or not 1 <= top <= classes:
        raise UserError(f"{field}: top={top!r} must be from 1 to the {classes} classes")
    table = {"top": top, "examples": pipeline.num_train, "classes": classes}
    return {"stored": str(options["stored"]), **table}


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
