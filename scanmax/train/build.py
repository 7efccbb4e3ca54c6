"""From a config to a run: data, model, optimizer, mesh and compiled steps, not yet any array."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scanmax.data.targets import HELD_OUT, TRAINING, check_targets
from scanmax.errors import UserError, suggest
from scanmax.models.analysis import multiply_adds_of
from scanmax.train import sharding
from scanmax.train.config import Config, Durations, best_mode, check_config, resolve_durations
from scanmax.train.evaluators import EVALUATORS, Evaluator
from scanmax.train.feed import ReadAhead
from scanmax.train.gradients import GRADIENTS
from scanmax.train.losses import make_loss
from scanmax.train.mixing import MIXES
from scanmax.train.objectives import OBJECTIVES, Objective
from scanmax.train.optim import make_optimizer
from scanmax.train.pipelines import Pipeline, check_labels, load_data, one_row
from scanmax.train.plugs import checked_pairs, lookup, make, numbered
from scanmax.train.schedules import make_schedule
from scanmax.train.state import TrainState, create_state, init_objective, logical_axes
from scanmax.train.step import Recipe, compile_steps, model_variables
from scanmax.train.teachers import (
    OPTIONS,
    StoredTeacher,
    Teacher,
    change_of_normalisation,
    stored_fields,
)
from scanmax.train.terms import TERMS, Term
from scanmax.train.transforms import TRANSFORMS


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything of a run but its state.

    Attributes:
      recipe: the objective around the model, and what else hangs on the plug points.
      evaluators: evaluations beside the objective's own.
      init: makes the state, sharded from the start; of variables of the model, and of another
        seed, where given.
      shapes: the state's shapes.
      shardings: the state's shardings.
      train_step: (state, batch, teachers) -> (state, metrics); the state is donated.
      eval_step: (params, carried, batch) -> sums.
      predict_step: (params, carried, batch) -> what is predicted, beside the batch.
      features_step: (params, carried, inputs) -> pooled features [B, D].
    """

    config: Config
    durations: Durations
    pipeline: Pipeline
    recipe: Recipe
    evaluators: tuple[Evaluator, ...]
    mesh: Mesh
    init: Callable[..., TrainState]
    shapes: TrainState
    shardings: TrainState
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]
    predict_step: Callable[..., Any]
    features_step: Callable[..., Any]

    @property
    def objective(self) -> Objective:
        """What is minimised."""
        return self.recipe.objective

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.recipe.objective.model

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one model input, with a batch axis of one."""
        return model_input(self.pipeline, type(self.objective))

    @property
    def beside(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what the model reads besides by keyword."""
        return dict(self.objective.beside(one_row(self.pipeline.eval_spec)))

    @property
    def classes(self) -> int:
        """Classes that the model answers with, or the size of the vocabulary that it knows."""
        if self.pipeline.kind == "image_text":
            return getattr(self.model, "words", self.pipeline.vocab_size)
        speaks = self.pipeline.kind in ("tokens", "labelled_tokens")
        field = "vocab_size" if speaks else "num_classes"
        return getattr(self.model, field, None) or self.pipeline.num_classes

    def check(self, batch: Mapping[str, np.ndarray], part: str = TRAINING) -> None:
        """Raises UserError for labels or tokens of a batch that the model has no answer for."""
        if self.pipeline.kind != "image" or reads_labels(type(self.objective)):
            where = f"{part} of {self.config.data.name!r}"
            check_targets(batch, self.pipeline.kind, self.classes, where)

    def eval_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The pipeline's held-out batches, checked, read ahead by a thread.

        Raises:
          Stopped: no batch came, and a signal asked to stop.
        """
        check = functools.partial(self.check, part=HELD_OUT)
        batches = ReadAhead(self.pipeline.eval_batches(), 1, check)
        try:
            yield from batches
        finally:
            batches.close()

    def multiply_adds(self) -> int:
        """Those of the model, for one example; its shapes are known, so that it is traced once."""
        variables = model_variables({"params": self.shapes.params, **self.shapes.carried})
        traced = jax.make_jaxpr(self.model.apply)(variables, self.example, **self.beside)
        return multiply_adds_of(traced.jaxpr)

    def eval_params(self, state: TrainState) -> Any:
        """The parameters that are evaluated: the moving average where one is kept."""
        return state.ema if self.config.ema.decay else state.params

    def model_variables(self, state: TrainState) -> dict[str, Any]:
        """The model's variables for model.apply, as they are evaluated, transforms included."""
        return model_variables(self.recipe.variables(self.eval_params(state), state.carried))


def build(
    config: Config,
    *,
    data: Any = None,
    pipeline: Pipeline | None = None,
    model: nn.Module | None = None,
    devices: list[jax.Device] | None = None,
) -> Run:
    """Builds a run; nothing is computed but shapes.

    Args:
      config: the config.
      data: images and labels in memory, as scanmax.data.load takes them.
      pipeline: data of one's own; None loads config.data.
      model: a module of one's own; None makes config.model.
      devices: devices of the mesh; None is all.

    Raises:
      UserError: anything in the config that cannot be.
    """
    check_config(config)
    check_loss(config)
    kind = lookup(OBJECTIVES, config.objective.name, "config.objective.name")
    evaluators = make_evaluators(config)
    check_metric(config, kind, evaluators)
    mesh = sharding.make_mesh(config.sharding, devices)
    accumulate = config.optim.accumulate
    sharding.check_batch_size("config.batch_size", config.batch_size, mesh, accumulate)
    eval_batch_size = config.eval_batch_size or config.batch_size
    sharding.check_batch_size("config.eval_batch_size", eval_batch_size, mesh)
    if pipeline is None:
        pipeline = load_data(config.data, config, eval_batch_size, data)
    if kind.data_kind != pipeline.kind:
        raise UserError(
            f"config.objective.name={config.objective.name!r} needs {kind.data_kind} data; "
            f"config.data.name={config.data.name!r} holds {pipeline.kind}"
        )
    check_views(config, kind, pipeline)
    model = make_model(config, pipeline) if model is None else as_read(config, model, pipeline)
    if reads_labels(kind):
        check_labels(config, model, pipeline)
    durations = resolve_durations(config, pipeline.num_train)
    objective = make_objective(config, model, pipeline, durations.total)
    example, batch = model_input(pipeline, kind), one_row(pipeline.train_spec)
    teachers = tuple(teacher.variable_shapes(example) for teacher in objective.teachers)
    variables = jax.jit(lambda seed: init_objective(objective, seed, example, batch, teachers))
    # An array: a number would be a constant of the program, and every seed have its own.
    seed = np.uint32(config.seed)
    try:
        boxed = jax.eval_shape(variables, seed)
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"model {config.model.name!r} does not take inputs {tuple(example.shape)}: {error}"
        ) from error
    params = nn.meta.unbox(boxed["params"])
    schedule = make_schedule(config.schedule, config.optim.lr, durations)
    optimizer = make_optimizer(config.optim, schedule, params, logical_axes(boxed["params"]))
    recipe = make_recipe(config, objective, params, pipeline)
    init, shapes, shardings = create_state(
        variables,
        objective,
        optimizer,
        seed=seed,
        mesh=mesh,
        config=config.sharding,
        transforms=recipe.transforms,
        keeps_ema=config.ema.decay > 0,
    )
    run = Run(
        config=config,
        durations=durations,
        pipeline=pipeline,
        recipe=recipe,
        evaluators=evaluators,
        mesh=mesh,
        init=init,
        shapes=shapes,
        shardings=shardings,
        **compile_steps(recipe, optimizer, schedule, config, shardings, mesh),
    )
    names = [name for name, _ in checked_pairs(config.evaluators, "config.evaluators")]
    for name, evaluator in zip(names, evaluators):
        evaluator.check(run, f"config.evaluators {name!r}")
    return run


def reseeded(run: Run, seed: int) -> Run:
    """A run of config.data with another seed: its data and its start are new, not what is compiled.

    Args:
      run: what `build` made of a config; its data are those that the config names.
      seed: of parameters, dropout and the order of the data.
    """
    config = dataclasses.replace(run.config, seed=seed)
    size = config.eval_batch_size or config.batch_size
    begin = functools.partial(run.init, seed=np.uint32(seed))
    pipeline = load_data(config.data, config, size)
    return dataclasses.replace(run, config=config, pipeline=pipeline, init=begin)


def make_evaluators(config: Config) -> tuple[Evaluator, ...]:
    """The evaluators of a config."""
    field = "config.evaluators"
    pairs = checked_pairs(config.evaluators, field)
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{field} names {name!r} twice: their figures would share one name")
    return tuple(make(EVALUATORS, name, options, field) for name, options in pairs)


def check_metric(config: Config, kind: type[Objective], evaluators: Iterable[Evaluator]) -> None:
    """Refuses a metric of "best" that no evaluation gives."""
    known = [*kind.metric_names]
    for evaluator in evaluators:
        known += [] if evaluator.final else evaluator.metric_names
    metric = config.checkpoint.metric
    if not metric:
        if config.checkpoint.keep_best:
            raise UserError(
                "config.checkpoint.metric='' means no best: set config.checkpoint.keep_best=0"
            )
    elif not known:
        raise UserError(
            f"config.checkpoint.metric={metric!r}: {config.objective.name!r} says nothing of "
            "single images; set config.evaluators=('knn',) and config.checkpoint.metric="
            "'knn_accuracy', or metric='' and config.checkpoint.keep_best=0"
        )
    elif metric not in known:
        raise UserError(f"unknown config.checkpoint.metric={metric!r}; {suggest(metric, known)}")
    else:
        best_mode(config.checkpoint)


def check_views(config: Config, kind: type[Objective], pipeline: Pipeline) -> None:
    """Refuses training batches that hold another number of views than the objective reads."""
    if "image" not in pipeline.train_spec:
        return
    shape = pipeline.train_spec["image"].shape
    views = shape[1] if len(shape) == 5 else 1
    if views != kind.views:
        raise UserError(
            f"config.objective.name={config.objective.name!r} reads {kind.views} views of each "
            f"image: set config.data.augment.views={kind.views}, not {views}"
        )
    if "local_image" in pipeline.train_spec and not kind.reads_local:
        raise UserError(
            f"config.objective.name={config.objective.name!r} reads no small views: set "
            "config.data.augment.local_views=0"
        )


def make_objective(
    config: Config, model: nn.Module, pipeline: Pipeline, total_steps: int
) -> Objective:
    """The objective of a config around a model."""
    own = config.objective
    terms = make_terms(own.terms)
    objective = make(
        OBJECTIVES,
        own.name,
        own.kwargs,
        "config.objective.kwargs of",
        model=model,
        config=own,
        terms=terms,
        teachers=make_teachers(config, pipeline, any(term.reads_taps for term in terms)),
        total_steps=total_steps,
        classes=pipeline.num_classes,
    )
    objective.check()
    if config.optim.accumulate > 1:
        names = [] if objective.accumulates else [own.name]
        names += [term.name for term in terms if not term.accumulates]
        if names:
            raise UserError(
                f"config.optim.accumulate={config.optim.accumulate}: {names[0]!r} needs all rows "
                "of a batch at once, and parts of it would be another loss; take more devices or "
                "remat"
            )
    return objective


def make_terms(pairs: Any) -> tuple[Term, ...]:
    """Terms of a config's pairs, each under its own name."""
    field = "config.objective.terms"
    pairs = checked_pairs(pairs, field)
    names = numbered([name for name, _ in pairs])
    return tuple(
        make(TERMS, kind, options, field, name=name) for (kind, options), name in zip(pairs, names)
    )


def make_teachers(config: Config, pipeline: Pipeline, reads_taps: bool) -> tuple[Teacher, ...]:
    """The teachers of a config, not yet their weights."""
    field, teachers = "config.objective.teachers", []
    mixes = checked_pairs(config.mix, "config.mix")
    blends = any(lookup(MIXES, name, "config.mix").blends for name, _ in mixes)
    kind = lookup(OBJECTIVES, config.objective.name, "config.objective.name")
    for name, options in checked_pairs(config.objective.teachers, field):
        for key in options:
            if key not in OPTIONS:
                raise UserError(f"{field} {name!r} has no option {key!r}; {suggest(key, OPTIONS)}")
        scale, shift = change_of_normalisation(
            f"{field} {name!r}", options, getattr(pipeline, "normalisation", None)
        )
        own = {
            "name": name,
            "model": kind.taught_by(
                _create(name, 0, pipeline, dict(options.get("kwargs", {}))),
                options,
                f"{field} {name!r}",
                pipeline,
            ),
            "weights": options.get("weights", ""),
            "step": options.get("step", "last"),
            "scale": scale,
            "shift": shift,
            "image_size": options.get("image_size", 0),
            "reads_taps": reads_taps,
        }
        if not options.get("stored"):
            if "top" in options:
                raise UserError(f"{field} {name!r}: top says how much of 'stored' is kept; set it")
            teachers.append(Teacher(**own))
            continue
        table = stored_fields(pipeline, options, f"{field} {name!r}", blends=blends)
        teachers.append(StoredTeacher(**{**own, "reads_taps": False}, **table))
    return tuple(teachers)


def make_recipe(config: Config, objective: Objective, params: Any, pipeline: Pipeline) -> Recipe:
    """The objective with the config's mixes, gradient rule and transforms."""
    mixes = tuple(
        make(MIXES, name, options, "config.mix", classes=pipeline.num_classes)
        for name, options in checked_pairs(config.mix, "config.mix")
    )
    if mixes and objective.data_kind != "image":
        raise UserError(
            f"config.mix changes images and labels; {config.objective.name!r} reads none so"
        )
    if any(mix.blends for mix in mixes) and not objective.loss.blends:
        raise UserError(objective.loss.refusal("mixed"))
    if mixes and objective.views > 1:
        raise UserError(f"config.mix: {config.objective.name!r} compares views, which do not mix")
    if getattr(objective, "relabel", "") and not any(mix.blends for mix in mixes):
        raise UserError("config.objective.kwargs: relabel is of mixed images: set config.mix")
    for mix in mixes:
        if not mix.guided:
            continue
        if objective.teachers and not objective.teachers[0].has_taps:
            raise UserError("config.mix: a teacher of stored answers is no guide")
        mix.check_guide(objective.teachers[0].model if objective.teachers else objective.model)
    transforms = make_transforms(config)
    for transform in transforms:
        transform.check(params, "config.transforms")
    gradient = make(
        GRADIENTS, config.optim.gradient, config.optim.gradient_kwargs, "config.optim.gradient"
    )
    gradient.check(objective, params, config.batch_size)
    finish = getattr(pipeline, "finish", None)
    return Recipe(objective, mixes, gradient, transforms, finish)


def make_transforms(config: Config) -> tuple[Any, ...]:
    """The transforms of a config."""
    field = "config.transforms"
    return tuple(
        make(TRANSFORMS, name, options, field)
        for name, options in checked_pairs(config.transforms, field)
    )


def reads_labels(kind: type[Objective]) -> bool:
    """Whether an objective compares what the model says with the data's labels."""
    return "accuracy" in kind.metric_names


def check_loss(config: Config) -> None:
    """Refuses an unknown loss, and labels that it has no equation for."""
    loss = make_loss(config.objective)
    if config.objective.label_smoothing and not loss.smooths:
        raise UserError(loss.refusal("smoothed"))


def model_input(pipeline: Pipeline, kind: type[Objective] | None = None) -> jax.ShapeDtypeStruct:
    """Shape and dtype of one model input, with a batch axis of one.

    Args:
      pipeline: the data.
      kind: the objective; None is the first one that reads such data.
    """
    if kind is None:
        kind = next(each for each in OBJECTIVES.values() if each.data_kind == pipeline.kind)
    return jax.eval_shape(kind.inputs, one_row(pipeline.eval_spec))


def make_model(config: Config, pipeline: Pipeline) -> nn.Module:
    """The config's model with the data's number of classes or size of vocabulary, or no head."""
    fields: dict[str, Any] = {"dtype": jnp.dtype(config.model.dtype).type}
    if config.model.remat != "none":
        fields["remat"] = remat_field(config.model.remat)
    fields |= config.model.kwargs
    model = _create(config.model.name, config.model.num_classes, pipeline, fields)
    return as_read(config, model, pipeline)


def as_read(config: Config, model: nn.Module, pipeline: Any) -> nn.Module:
    """The model as the objective reads it."""
    return OBJECTIVES[config.objective.name].read_as(model, config, pipeline)


def remat_field(name: str) -> bool | str:
    """What a model takes as `remat` for a policy's name.

    Raises:
      UserError: unknown policy; the message lists near matches.
    """
    policies = [policy for policy in dir(jax.checkpoint_policies) if not policy.startswith("_")]
    if name == "full":
        return True
    if name not in policies:
        raise UserError(
            f"unknown config.model.remat={name!r}; {suggest(name, ['none', 'full', *policies])}"
        )
    return name


def _create(name: str, classes: int, pipeline: Pipeline, fields: dict[str, Any]) -> nn.Module:
    from scanmax.models.registry import create_model

    classes = classes or pipeline.num_classes
    # An entry of the config's kwargs counts more.
    if pipeline.kind == "labelled_text":
        fields = {"vocab_size": pipeline.vocab_size, **fields}
    elif pipeline.kind in ("tokens", "labelled_tokens"):
        fields, classes = {"vocab_size": classes, **fields}, None
    try:
        return create_model(name, classes, **fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"model {name!r}: {error}") from error
