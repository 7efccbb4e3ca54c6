"""The state of a run, and its creation in place: every array is born on its devices."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from scanmax.train import sharding
from scanmax.train.config import ShardingConfig


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes.

    Attributes:
      step: Updates done, int32.
      params: Parameters, float32.
      batch_stats: Running statistics; {} for models without.
      opt_state: The optimizer's state.
      ema: Moving average of the parameters; {} without one.
      rng: Key data of the run's random stream; step i folds i into it.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    rng: jax.Array


def init_variables(model: nn.Module, seed: int, example: jax.ShapeDtypeStruct) -> Any:
    """Runs model.init on zeros; the parameters keep their boxes of logical axes."""
    return model.init(jax.random.key(seed), jnp.zeros(example.shape, example.dtype))


def abstract_params(
    model: nn.Module, seed: int, example: jax.ShapeDtypeStruct
) -> tuple[Any, Any, Any]:
    """Shapes of the parameters, their logical axes, and shapes of the batch statistics.

    Returns:
      (params, axes, batch_stats); a leaf of axes is the tuple of names, None without annotation.
    """
    boxed = jax.eval_shape(lambda: init_variables(model, seed, example))
    is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)  # noqa: E731
    axes = jax.tree.map(
        lambda leaf: tuple(leaf.names) if isinstance(leaf, nn.Partitioned) else None,
        boxed["params"],
        is_leaf=is_box,
    )
    variables = nn.meta.unbox(boxed)
    return variables["params"], axes, variables.get("batch_stats", {})


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    example: jax.ShapeDtypeStruct,
    *,
    seed: int,
    mesh: Mesh,
    config: ShardingConfig,
    keeps_ema: bool = False,
) -> tuple[Any, TrainState, TrainState]:
    """Plans a state without making it.

    Args:
      model: the model.
      optimizer: its optimizer.
      example: shape and dtype of one model input, batch axis included.
      seed: seeds the parameters and the run's random stream.
      mesh: where arrays lie.
      config: how arrays lie.
      keeps_ema: whether a moving average is kept.

    Returns:
      (init, shapes, shardings): init() makes the state, compiled so that no device ever holds more
      than its part; shapes and shardings describe it, to restore a checkpoint into.
    """

    def init() -> TrainState:
        variables = nn.meta.unbox(init_variables(model, seed, example))
        params = variables["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(params),
            ema=jax.tree.map(jnp.copy, params) if keeps_ema else {},
            rng=jax.random.key_data(jax.random.fold_in(jax.random.key(seed), 1)),
        )

    shapes = jax.eval_shape(init)
    _, axes, _ = abstract_params(model, seed, example)
    lying = sharding.parameter_shardings(shapes.params, axes, mesh, config)
    whole = sharding.replicated(mesh)
    shardings = TrainState(
        step=whole,
        params=lying,
        batch_stats=jax.tree.map(lambda _: whole, shapes.batch_stats),
        opt_state=sharding.like_parameters(shapes.opt_state, shapes.params, lying, mesh),
        ema=lying if keeps_ema else {},
        rng=whole,
    )
    sharding.check_sharded(shapes.params, lying, mesh, config)
    return jax.jit(init, out_shardings=shardings), shapes, shardings
