"""A trained model out of a workdir: its parameters alone, without optimizer, on any device."""

import dataclasses
import functools
import json
import logging
import math
import pathlib
import sys
import types
import typing
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from scanmax.checksum import name_of
from scanmax.data import tokenization
from scanmax.data.preprocessing import Preprocessing
from scanmax.errors import UserError
from scanmax.train.build import as_read, make_model, make_transforms
from scanmax.train.checkpoint import damage_of, read_meta
from scanmax.train.config import Config, best_mode
from scanmax.train.losses import make_loss
from scanmax.train.objectives import OBJECTIVES
from scanmax.train.predictor import Classifier, predict
from scanmax.train.remote import fetched
from scanmax.train.step import model_variables
from scanmax.train.teachers import Teacher
from scanmax.train.transforms import transformed
from scanmax.train.workdir import read_config, steps_of


@dataclasses.dataclass(frozen=True)
class Trained:
    """What load_for_inference found.

    Attributes:
      model: the module.
      variables: {"params": ..., "batch_stats": ...}, for model.apply.
      config: the run's config.
      step: the checkpoint's step.
      data: what the run read: "kind", "input" (shape and type of one example), "num_classes",
        "class_names", of images "preprocessing", all that lies between a file and the model, and of
        text "tokenizer".
    """

    model: nn.Module
    variables: dict[str, Any]
    config: Config
    step: int
    data: dict[str, Any]

    def example(self, batch_size: int = 1) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a batch of model inputs."""
        shape = (batch_size, *self.data["input"]["shape"])
        return jax.ShapeDtypeStruct(shape, jnp.dtype(self.data["input"]["dtype"]))

    def predict(self, inputs: Any, *, batch_size: int = 64, unreadable: str = "raise") -> Any:
        """What a classifier of images says, of images prepared as its run prepared them.

        Args:
          inputs: a file or a folder; an array [Y, X], [Y, X, C], [N, Y, X] or [N, Y, X, C] of
            uint8, uint16 or floats in [0, 1], of any size and 1, 3 or 4 channels; or a list of
            these.
          batch_size: images that the model is asked of at a time.
          unreadable: of files that cannot be read, "raise" or "skip", which warns of each.

        Returns:
          A `scanmax.train.predictor.Prediction` (path, label, name, probability, probabilities)
          of one image, a list of them of several.

        Raises:
          UserError: no such file, no image, or a run that is no classifier of images.

        Example:
          scanmax.load("runs/pets").predict("cat.png").name
        """
        return predict(self.classifier, inputs, batch_size, unreadable)

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> str:
        """What a language model says after a text, until its document ends.

        Args:
          prompt: the text to go on from; "" begins a document.
          max_new_tokens: how many tokens at most.
          temperature: 0 takes the most probable token.
          top_k: draws among so many of the most probable tokens; None among all.
          top_p: draws among the fewest that reach this probability; None among all.
          seed: of the draws.

        Returns:
          The text behind the prompt.

        Raises:
          UserError: a run that is no language model of text.

        Example:
          scanmax.load("runs/book").generate("Once upon a time")
        """
        from scanmax.models.generation import generate

        told = self.data.get("tokenizer")
        if not told or self.data["kind"] != "tokens":
            raise UserError(
                f"generate() is of language models of text; this run is "
                f"{self.config.objective.name!r} on {self.data['kind']} data"
            )
        tokenizer = tokenization.from_dict(told)
        tokens = tokenizer.encode(prompt)
        if not len(tokens):
            # Behind the end of a document the next begins; where there is none, behind a new line.
            tokens = np.int32([ord("\n") if tokenizer.end is None else tokenizer.end])
        found = generate(
            self.model,
            self.variables,
            jnp.asarray(tokens)[None],
            max_new_tokens=max_new_tokens,
            key=jax.random.key(seed),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            eos_token=tokenizer.end,
        )
        return tokenizer.decode(np.asarray(found)[0, len(tokens) :])

    @property
    def is_classifier(self) -> bool:
        """Whether the run learnt classes of images."""
        own = OBJECTIVES[self.config.objective.name]
        return self.data["kind"] == "image" and "accuracy" in own.metric_names and not own.headless

    @functools.cached_property
    def classifier(self) -> Classifier:
        """What gives probabilities of images of any size.

        Raises:
          UserError: the run is no classifier of images, or its checkpoint does not say how images
            are prepared.
        """
        own = self.config.objective.name
        if self.data["kind"] == "image" and OBJECTIVES[own].headless:
            raise UserError(
                f"predict() is of models with a head; {own!r} leaves one without, whose features "
                "trained.model.apply gives"
            )
        if not self.is_classifier:
            raise UserError(
                f"predict() is of classifiers of images; this run is {own!r} on "
                f"{self.data['kind']} data"
            )
        if not self.data.get("preprocessing"):
            raise UserError(
                "this checkpoint does not say how its images are prepared (its data were one's own "
                "batches, or it is of an earlier version): use trained.model.apply"
            )
        prepare = Preprocessing.from_dict(self.data["preprocessing"])
        names, loss = self.data["class_names"], make_loss(self.config.objective)
        return Classifier(self.model, self.variables, prepare, names, loss)


def load_for_inference(
    workdir: str | pathlib.Path, step: int | str = "last", *, model: nn.Module | None = None
) -> Trained:
    """Reads the model of a run: the moving average where one is kept, else the parameters.

    Only those and the batch statistics are read, not the optimizer, whatever mesh wrote them. A run
    that is still going may be read: a checkpoint is either whole or not there.

    Args:
      workdir: folder of a run, or a remote one, which is copied here first.
      step: a checkpoint's step, "last", or "best" by the metric that the run's config names.
      model: a module of one's own, where the run was given one; None makes the config's.

    Returns:
      Model and variables, the latter on the default device.

    Raises:
      UserError: no such checkpoint, or one that cannot be read, is damaged or does not fit the
        model.

    Example:
      trained = load_for_inference("runs/digits_vit"); trained.model.apply(trained.variables, x)
    """
    from scanmax.models.weights import load_weights

    found = read_run(workdir, step)
    config, data = found.config, found.data
    sizes = {name: data.get(name, 0) for name in ("num_classes", "vocab_size", "text_length")}
    known = types.SimpleNamespace(kind=data["kind"], **sizes)
    model = make_model(config, known) if model is None else as_read(config, model, known)
    variables = load_weights(model, found.variables, data["input"]["shape"])
    return Trained(model, nn.meta.unbox(variables), config, found.step, data)


class Read(NamedTuple):
    """What a checkpoint holds of a model, which is not made for it.

    Attributes:
      config: the run's.
      step: the checkpoint's.
      data: what the run read.
      variables: {"params": ..., "batch_stats": ...} behind the run's transforms, numpy arrays.
      kept: what they are, "ema" or "params".
      carried: of `read_checkpoint`, the collections that are carried from step to step.
    """

    config: Config
    step: int
    data: dict[str, Any]
    variables: dict[str, Any]
    kept: str
    carried: dict[str, Any] | None = None


def read_run(
    workdir: str | pathlib.Path, step: int | str = "last", params_from: str = "auto"
) -> Read:
    """Reads a run's model without making it; `load_for_inference` has the rest.

    Args:
      workdir: folder of a run.
      step: a checkpoint's step, "last" or "best".
      params_from: "ema", "params", or "auto": the moving average where one is kept.

    Raises:
      UserError: no such checkpoint, or one that cannot be read or is damaged.
    """
    found = read_checkpoint(workdir, step, params_from)
    config, arrays, carried = found.config, found.variables, found.carried
    # What the objective learned beside the model stays behind.
    variables = model_variables(
        {"params": transformed(make_transforms(config), arrays, carried), **carried}
    )
    return Read(config, found.step, found.data, variables, found.kept)


def read_checkpoint(
    workdir: str | pathlib.Path, step: int | str = "last", params_from: str = "auto"
) -> Read:
    """Reads what a run's objective learned and carries, as it lies in the checkpoint.

    Args and errors are those of `read_run`; variables are all parameters, behind no transform.
    """
    workdir = fetched(workdir).expanduser().absolute()
    try:
        config = from_dict(Config, read_config(workdir))
        step = find_step(workdir, step, config)
        folder = workdir / "checkpoints" / str(step)
        meta = read_meta(folder)
        data = meta["data"]
        kept = "ema" if config.ema.decay else "params"
        if params_from == "ema" and kept != "ema":
            raise UserError(f"the run of {workdir} keeps no moving average: its ema.decay is 0")
        kept = kept if params_from == "auto" else params_from
        arrays = read_arrays(folder / "state", ("step", kept, "carried"))
        damage = damage_of(arrays, meta)
        if damage:
            raise ValueError(damage)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"checkpoint {step} of {workdir} cannot be read: {reason}") from error
    if "model" not in arrays[kept]:
        raise UserError(f"checkpoint {step} of {workdir} was written by scanmax 0.1 or earlier")
    return Read(config, step, data, arrays[kept], kept, arrays.get("carried") or {})


def read_optimizer(workdir: str | pathlib.Path, step: int | str = "last") -> dict[str, Any]:
    """The arrays of a run's optimizer by their paths, "0/mu/model/head/kernel".

    Raises:
      UserError: no such checkpoint, or one that cannot be read or is damaged.
    """
    workdir = pathlib.Path(workdir).expanduser().absolute()
    step = find_step(workdir, step, from_dict(Config, read_config(workdir)))
    folder = workdir / "checkpoints" / str(step)
    try:
        arrays = read_arrays(folder / "state", ("opt_state",))
        damage = damage_of(arrays, read_meta(folder))
        if damage:
            raise ValueError(damage)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"checkpoint {step} of {workdir} cannot be read: {reason}") from error
    pairs = jax.tree_util.tree_leaves_with_path(arrays["opt_state"])
    return {name_of(path): leaf for path, leaf in pairs}


def load_teacher(teacher: Teacher, inputs: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """A teacher's variables, from its weights.

    Those of a run are its moving average where it keeps one, behind its transforms.

    Args:
      teacher: whose.
      inputs: shape of what the student reads.

    Raises:
      UserError: it names no weights, or they cannot be read or do not fit.
    """
    from scanmax.models.weights import load_weights

    field = f"config.objective.teachers: {teacher.name!r}"
    if not teacher.weights:
        raise UserError(
            f"{field} needs the option 'weights', the workdir of a run, or a file, a folder or "
            "a hub id as scanmax.load_weights takes it"
        )
    is_run = (pathlib.Path(teacher.weights) / "checkpoints").is_dir()
    if not is_run and teacher.step != "last":
        raise UserError(
            f"{field}: step={teacher.step!r} names a checkpoint, and weights={teacher.weights!r} "
            "is no workdir of a run"
        )
    try:
        if is_run:
            return load_for_inference(teacher.weights, teacher.step, model=teacher.model).variables
        shape = teacher.example(inputs).shape[1:]
        return nn.meta.unbox(load_weights(teacher.model, teacher.weights, shape))
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def find_step(workdir: pathlib.Path, step: int | str, config: Config) -> int:
    """The step of a checkpoint that is there.

    Raises:
      UserError: there is none, or not this one; the message lists them.
    """
    steps = steps_of(workdir)
    if not steps:
        raise UserError(f"no checkpoint under {workdir}: is it the workdir of a run?")
    if step == "last":
        return steps[-1]
    if step == "best" and not config.checkpoint.metric:
        raise UserError(f"the run of {workdir} names no metric to be best by; take step='last'")
    if step == "best":
        metric, sign = config.checkpoint.metric, 1 if best_mode(config.checkpoint) == "max" else -1
        found = {}
        for known in steps:
            value = read_metrics(workdir / "checkpoints" / str(known)).get(metric, math.nan)
            if math.isfinite(value):
                found[known] = sign * value
        if not found:
            raise UserError(
                f"no checkpoint under {workdir} was evaluated to a finite {metric!r}; "
                "take step='last'"
            )
        # Of equals the newest, as it is kept.
        return max(found, key=lambda known: (found[known], known))
    if str(step).isdigit() and int(step) in steps:
        return int(step)
    listed = ", ".join(str(known) for known in steps)
    raise UserError(f"no checkpoint {step!r} under {workdir}; there are {listed}, last and best")


def read_metrics(folder: pathlib.Path) -> dict[str, float]:
    """The held-out metrics of a checkpoint, {} where it was not evaluated or they are damaged."""
    try:
        meta = read_meta(folder)
        if "metrics" in meta:
            return meta["metrics"] or {}
        # A checkpoint from before meta held them.
        path = folder / "metrics" / "metrics"
        return json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        print(f"warning: checkpoint {folder.name} is damaged ({error})", file=sys.stderr)
        return {}


def read_arrays(folder: pathlib.Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The trees of these names in a checkpoint's state, as numpy arrays; others are not read."""
    # Orbax warns of a file that checkpoints of ours never have. Not by absl's set_verbosity, after
    # which its logger would warn of what a run that goes on has hushed.
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return _read_arrays(folder, names)
    finally:
        logger.setLevel(before)


def _read_arrays(folder: pathlib.Path, names: tuple[str, ...]) -> dict[str, Any]:
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = dict(checkpointer.metadata(folder).item_metadata.tree)

        def wanted(name, leaves):
            keep = lambda leaf: leaf if name in names else ocp.PLACEHOLDER  # noqa: E731
            return jax.tree.map(keep, leaves)

        item = {name: wanted(name, leaves) for name, leaves in tree.items()}
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found = checkpointer.restore(folder, item=item, restore_args=args)
    return {name: found[name] for name in names if name in found}


def from_dict(kind: Any, tree: dict[str, Any]) -> Any:
    """A tree of dataclasses from nested dicts; JSON's lists become the tuples that they were."""
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        if field.name not in tree:
            continue
        value = tree[field.name]
        if dataclasses.is_dataclass(hints[field.name]):
            value = from_dict(hints[field.name], value)
        values[field.name] = _with_tuples(value)
    return kind(**values)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_with_tuples(entry) for entry in value)
    if isinstance(value, dict):
        return {key: _with_tuples(entry) for key, entry in value.items()}
    return value
