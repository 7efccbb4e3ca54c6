"""The state of a run, and its creation in place: every array is born on its devices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from scanmax.models.layers import axes_of
from scanmax.train import sharding
from scanmax.train.config import ShardingConfig
from scanmax.train.objectives.base import Objective
from scanmax.train.transforms import Transform

# Collections that live for one call alone.
TRANSIENT = ("params", "intermediates", "losses", "metrics", "taps", "replaced")
# Folded into a run's seed for what an objective learns beside the model.
LEARNED = 2
# A start is made once: on CPU compiling it costs many times more than running it, whatever the
# compiler does for its speed.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes.

    Attributes:
      step: Updates done, int32.
      params: Parameters, float32: the model's under "model", what the objective learns beside it.
      carried: Flax collections by name, changed by steps and not learned: "batch_stats", and what
        the objective carries, such as a momentum teacher.
      opt_state: The optimizer's state.
      ema: Moving average of the parameters; {} without one.
      rng: Key data of the run's random stream; step i folds i into it.
    """

    step: jax.Array
    params: Any
    carried: dict[str, Any]
    opt_state: Any
    ema: Any
    rng: jax.Array


def init_variables(model: nn.Module, seed: Any, example: jax.ShapeDtypeStruct) -> Any:
    """Runs model.init on zeros; the parameters keep their boxes of logical axes."""
    return model.init(jax.random.key(seed), jnp.zeros(example.shape, example.dtype))


def init_objective(
    objective: Objective,
    seed: Any,
    example: jax.ShapeDtypeStruct,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    teachers: Sequence[Any] = (),
) -> dict[str, Any]:
    """The variables of an objective, still in their boxes.

    The model's are those that its own `init` gives for the seed, whatever lies beside it.

    Args:
      objective: around the model.
      seed: the run's, a number or an array of it.
      example: shape of the model's input.
      batch: shapes of a training batch of one row.
      teachers: shapes of the teachers' variables.
    """

    @jax.jit
    def whole():
        zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)  # noqa: E731
        key = jax.random.fold_in(jax.random.key(seed), LEARNED)
        names = ("params", "dropout", "objective")
        return objective.init(
            dict(zip(names, jax.random.split(key, len(names)))),
            zeros(dict(batch)),
            train=True,
            teachers=zeros(tuple(teachers)),
            # Terms read activations here as in every step.
            mutable=True,
        )

    own = init_variables(objective.model, seed, example)
    # The trace is kept: asking for shapes and running it go through the model once.
    shapes = jax.eval_shape(whole)
    names = [name for name in shapes if name == "params" or name not in TRANSIENT]
    beside = any(set(shapes[name]) - {"model"} for name in names)
    found = whole() if beside else {name: {} for name in names}
    return {
        name: {**found[name], **({"model": own[name]} if name in own else {})} for name in names
    }


def abstract_params(
    model: nn.Module, seed: int, example: jax.ShapeDtypeStruct
) -> tuple[Any, Any, Any]:
    """Shapes of a model's parameters, their logical axes, and shapes of its batch statistics.

    Returns:
      (params, axes, batch_stats); a leaf of axes is what `axes_of` says: a tuple of names, None
      without annotation.
    """
    boxed = jax.eval_shape(lambda: init_variables(model, seed, example))
    variables = nn.meta.unbox(boxed)
    return variables["params"], logical_axes(boxed["params"]), variables.get("batch_stats", {})


def logical_axes(boxed: Any) -> Any:
    """What `axes_of` says of each parameter: its logical axes, None without annotation."""
    return jax.tree.map(axes_of, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata))


def create_state(
    variables: Callable[[Any], dict[str, Any]],
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh,
    config: ShardingConfig,
    transforms: Sequence[Transform] = (),
    keeps_ema: bool = False,
) -> tuple[Any, TrainState, TrainState]:
    """Plans a state without making it.

    Args:
      variables: what `init_objective` gives for a seed, compiled, so that it is traced once for all
        who ask.
      objective: the objective around the model.
      optimizer: its optimizer.
      seed: seeds the run's random stream.
      mesh: where arrays lie.
      config: how arrays lie.
      transforms: of the parameters; what they carry lies under "transforms".
      keeps_ema: whether a moving average is kept.

    Returns:
      (init, shapes, shardings): init() makes the state, compiled so that no device ever holds more
      than its part, and init(variables) one whose model starts from these collections; init(None,
      seed) that of another seed, by one program for all that are given so; shapes and shardings
      describe it, to restore a checkpoint into.
    """

    def init(start: Mapping[str, Any] | None = None, seed: Any = seed) -> TrainState:
        found = nn.meta.unbox(variables(seed))
        for name, tree in (start or {}).items():
            found[name] = {**found[name], "model": tree}
        params = found.pop("params")
        carried = objective.begin(params, found)
        states = {str(index): each.init(params) for index, each in enumerate(transforms)}
        if jax.tree.leaves(states):
            carried = {**carried, "transforms": states}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            carried=carried,
            opt_state=optimizer.init(params),
            ema=jax.tree.map(jnp.copy, params) if keeps_ema else {},
            rng=jax.random.key_data(jax.random.fold_in(jax.random.key(seed), 1)),
        )

    shapes = jax.eval_shape(init)
    axes = logical_axes(jax.eval_shape(variables, seed)["params"])
    lying = sharding.parameter_shardings(shapes.params, axes, mesh, config)
    whole = sharding.replicated(mesh)
    shardings = TrainState(
        step=whole,
        params=lying,
        carried=sharding.like_parameters(shapes.carried, shapes.params, lying, mesh),
        opt_state=sharding.like_parameters(shapes.opt_state, shapes.params, lying, mesh),
        ema=lying if keeps_ema else {},
        rng=whole,
    )
    sharding.check_sharded(shapes.params, lying, mesh, config)
    options = QUICKLY if mesh.devices.flat[0].platform == "cpu" else None
    compiled = jax.jit(init, out_shardings=shardings, compiler_options=options)
    return compiled, shapes, shardings
