"""From a config to a run: data, model, optimizer, mesh and compiled steps, not yet any array."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scanmax.data.config import DataConfig
from scanmax.errors import UserError, suggest
from scanmax.train import sharding
from scanmax.train.config import Config, Durations, check_config, resolve_durations
from scanmax.train.losses import get_loss
from scanmax.train.optim import make_optimizer
from scanmax.train.schedules import make_schedule
from scanmax.train.state import TrainState, abstract_params, create_state
from scanmax.train.step import compile_steps
from scanmax.train.tasks import TASKS


class Pipeline(Protocol):
    """What the trainer asks of data; scanmax.data.load returns one.

    `num_classes` is the size of the vocabulary where `kind` is "tokens" or "labelled_tokens".
    """

    kind: str
    num_train: int
    num_eval: int
    num_classes: int
    class_names: tuple[str, ...]
    train_spec: Mapping[str, jax.ShapeDtypeStruct]
    eval_spec: Mapping[str, jax.ShapeDtypeStruct]

    def train_iterator(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of batch start_step, start_step + 1, ... without end."""

    def eval_batches(self) -> Iterable[dict[str, np.ndarray]]:
        """This process's rows of the held-out batches, the last one padded."""

    def to_display(self, values: np.ndarray) -> Any:
        """Model inputs as uint8 images, or tokens as text."""

    def baselines(self) -> dict[str, float]:
        """Figures to hold a language model's against, by name."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything of a run but its state.

    Attributes:
      init: makes the state, sharded from the start.
      shapes: the state's shapes.
      shardings: the state's shardings.
      train_step: (state, batch, teacher_variables) -> (state, metrics); the state is donated.
      eval_step: (params, batch_stats, batch) -> sums.
      predict_step: (params, batch_stats, batch) -> probabilities beside the batch.
    """

    config: Config
    durations: Durations
    pipeline: Pipeline
    model: nn.Module
    teacher: nn.Module | None
    mesh: Mesh
    init: Callable[[], TrainState]
    shapes: TrainState
    shardings: TrainState
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]
    predict_step: Callable[..., Any]

    def eval_params(self, state: TrainState) -> Any:
        """The parameters that are evaluated: the moving average where one is kept."""
        return state.ema if self.config.ema.decay else state.params


def build(
    config: Config,
    *,
    pipeline: Pipeline | None = None,
    model: nn.Module | None = None,
    devices: list[jax.Device] | None = None,
) -> Run:
    """Builds a run; nothing is computed but shapes.

    Args:
      config: the config.
      pipeline: data of one's own; None loads config.data.
      model: a module of one's own; None makes config.model.
      devices: devices of the mesh; None is all.

    Raises:
      UserError: anything in the config that cannot be.
    """
    check_config(config)
    get_loss(config.loss.name)
    mesh = sharding.make_mesh(config.sharding, devices)
    accumulate = config.optim.accumulate
    sharding.check_batch_size("config.batch_size", config.batch_size, mesh, accumulate)
    eval_batch_size = config.eval_batch_size or config.batch_size
    sharding.check_batch_size("config.eval_batch_size", eval_batch_size, mesh)
    if pipeline is None:
        pipeline = load_data(config.data, config, eval_batch_size)
    task = TASKS[config.task](config.loss)
    if config.checkpoint.metric not in task.metrics:
        raise UserError(
            f"unknown config.checkpoint.metric={config.checkpoint.metric!r}; "
            + suggest(config.checkpoint.metric, task.metrics)
        )
    if task.data_kind != pipeline.kind:
        raise UserError(
            f"config.task={config.task!r} needs {task.data_kind} data; "
            f"config.data.name={config.data.name!r} holds {pipeline.kind}"
        )
    if model is None:
        model = make_model(config, pipeline)
    durations = resolve_durations(config, pipeline.num_train)
    example = model_input(pipeline)
    try:
        params, axes, _ = abstract_params(model, config.seed, example)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"model {config.model.name!r} does not take inputs {tuple(example.shape)}: {error}"
        ) from error
    schedule = make_schedule(config.schedule, config.optim.lr, durations)
    optimizer = make_optimizer(config.optim, schedule, params, axes)
    init, shapes, shardings = create_state(
        model,
        optimizer,
        example,
        seed=config.seed,
        mesh=mesh,
        config=config.sharding,
        keeps_ema=config.ema.decay > 0,
    )
    teacher = make_teacher(config, pipeline)
    train_step, eval_step, predict_step = compile_steps(
        model, optimizer, schedule, task, config, shardings, mesh, teacher
    )
    return Run(
        config=config,
        durations=durations,
        pipeline=pipeline,
        model=model,
        teacher=teacher,
        mesh=mesh,
        init=init,
        shapes=shapes,
        shardings=shardings,
        train_step=train_step,
        eval_step=eval_step,
        predict_step=predict_step,
    )


def load_data(data: DataConfig, config: Config, eval_batch_size: int) -> Pipeline:
    """This process's part of the data."""
    # Imported here: what reads no data need not pay for the readers.
    from scanmax.data import load

    return load(
        data,
        seed=config.seed,
        batch_size=config.batch_size,
        eval_batch_size=eval_batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def model_input(pipeline: Pipeline) -> jax.ShapeDtypeStruct:
    """Shape and dtype of one model input, with a batch axis of one."""
    field = {"labelled_tokens": "tokens"}.get(pipeline.kind, pipeline.kind)
    given = pipeline.train_spec[field]
    # a row of text holds one token more than the model reads
    shape = (given.shape[1] - 1,) if pipeline.kind == "tokens" else given.shape[1:]
    return jax.ShapeDtypeStruct((1, *shape), given.dtype)


def make_model(config: Config, pipeline: Pipeline) -> nn.Module:
    """The config's model with the data's number of classes or size of vocabulary."""
    fields: dict[str, Any] = {"dtype": jnp.dtype(config.model.dtype).type}
    if config.model.remat != "none":
        fields["remat"] = remat_field(config.model.remat)
    return _create(config.model.name, config.model.num_classes, pipeline, {
        **fields, **config.model.kwargs,
    })  # fmt: skip


def make_teacher(config: Config, pipeline: Pipeline) -> nn.Module | None:
    """The model to distil from, or None."""
    if not config.loss.teacher:
        return None
    return _create(config.loss.teacher, 0, pipeline, config.loss.teacher_kwargs)


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

    if pipeline.kind in ("tokens", "labelled_tokens"):
        # An entry of the config's kwargs counts more.
        fields = {"vocab_size": classes or pipeline.num_classes, **fields}
        classes = None
    else:
        classes = classes or pipeline.num_classes
    try:
        return create_model(name, classes, **fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"model {name!r}: {error}") from error
