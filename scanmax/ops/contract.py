"""What every op shares: how it is jitted, how it accumulates, and how it refuses bad arguments."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

# Mesh axes that split heads rather than rows, where they divide them: that of heads, and that of
# tokens, which a kernel needs whole.
HEAD_AXES = ("tensor", "context")

Function = TypeVar("Function", bound=Callable)


def op(*static: str, forward_mode: str = "") -> Callable[[Function], Function]:
    """Jits a public op with the keyword options named in `static` fixed at trace time.

    Name, signature and docstring stay, so that `help(op)`, the API test and type checkers see the
    function.

    Args:
      *static: names of options.
      forward_mode: the only value of `form` whose derivative is also taken forwards; where JAX
        refuses another one, the error names it. JAX itself speaks where the caller has jitted what
        is differentiated.
    """
    jit = functools.partial(jax.jit, static_argnames=static)
    if not forward_mode:
        return jit

    def decorate(function: Function) -> Function:
        jitted = jit(function)

        @functools.wraps(jitted)
        def call(*args, **kwargs):
            try:
                return jitted(*args, **kwargs)
            except TypeError as error:
                if "forward-mode" not in str(error):
                    raise
                raise TypeError(
                    f"{function.__name__}: forward mode (jax.jvp, jax.jacfwd) goes through "
                    f'form="{forward_mode}" alone, reverse mode (jax.vjp, jax.grad) through every '
                    "form."
                ) from error

        # What else a jitted function offers.
        for name in ("lower", "trace", "eval_shape", "clear_cache"):
            setattr(call, name, getattr(jitted, name))
        return call

    return decorate


def platform() -> str:
    """What ops are compiled for: the platform of the mesh in use, else JAX's default backend.

    The two differ where a step is compiled for a machine that is not there.
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return getattr(device, "platform", None) or jax.default_backend()


def accumulator_dtype(*arrays) -> jnp.dtype:
    """The dtype sums are carried in: at least float32, float64 where an input is float64."""
    # Strict promotion, which callers may have switched on, forbids the question itself.
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(
            jnp.promote_types, (x.dtype for x in arrays if x is not None), jnp.float32
        )


def align(x, like, trailing: int = 0):
    """Gives x leading axes of size 1 (and `trailing` ones at the end) up to the rank of `like`."""
    leading = like.ndim - x.ndim - trailing
    return x.reshape((1,) * leading + x.shape + (1,) * trailing)


def spread(x, like, trailing: int = 0):
    """x along the axes of `like` that it lacks: leading ones, and `trailing` ones at the end.

    As `align`, but with those axes in full, so that the gradient is one sum over all of them. Where
    the batch is 1, an axis of size 1 would leave a sum over the middle of [1, T, D], which takes
    XLA on CPU more than ten times as long.
    """
    first = like.ndim - x.ndim - trailing
    # Under shard_map the devices sum gradients as small as x then, not as large as `like`.
    x = vary_like(x, like)
    return jax.lax.broadcast_in_dim(x, like.shape, range(first, first + x.ndim))


def _varying_axes(x) -> frozenset:
    """The shard_map axes over which x varies; JAX has kept them under two names."""
    kind = jax.typeof(x)
    kind = getattr(kind, "manual_axis_type", kind)
    return frozenset(getattr(kind, "varying", getattr(kind, "vma", frozenset())))


def vary_like(x, *arrays):
    """x, marked as varying over the shard_map axes over which any of `arrays` varies.

    A loop's initial carry made of constants needs it: under shard_map the carry must have the
    type that the loop's body returns.
    """
    axes = frozenset().union(*(_varying_axes(a) for a in arrays if a is not None))
    axes -= _varying_axes(x)
    return jax.lax.pcast(x, tuple(sorted(axes)), to="varying") if axes else x


def vary_together(*arrays):
    """The arrays (None passes), each varying over the shard_map axes that any of them varies over.

    A gradient of one's own must vary as its argument does: what the shards share is summed here.
    """
    return [x if x is None else vary_like(x, *arrays) for x in arrays]


def unless_differentiated(alone: Callable, differentiated: Callable) -> Callable:
    """A function that runs as `alone`, and as `differentiated` where derivatives are taken.

    Both take the same arrays and give the same numbers, to rounding; what is fastest forward is not
    always what is fastest with its gradient, or keeps the least for it. Derivatives of any order
    and mode are those of `differentiated`.
    """
    function = jax.custom_jvp(alone)
    function.defjvp(functools.partial(jax.jvp, differentiated))
    return function


def require(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless condition holds; the message names argument and shape."""
    if not condition:
        raise ValueError(message)


def require_causal_states(is_causal: bool, initial_state, return_state: bool) -> None:
    """Refuses states where tokens are read in both directions."""
    require(
        is_causal or (initial_state is None and not return_state),
        "initial_state and return_state belong to the causal recurrence; they need is_causal=True.",
    )


def check_choice(name: str, value, choices: Sequence) -> None:
    """Refuses a value outside `choices`, listing them."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}={value!r} is not one of {listed}.")


def check_rank(minimum: int, **arrays) -> None:
    """Refuses arrays with fewer than `minimum` axes (leading batch axes are free)."""
    for name, array in arrays.items():
        if array is not None and array.ndim < minimum:
            raise ValueError(f"{name} has shape {array.shape}; expected at least {minimum} axes.")


def check_shape(name: str, array, expected: Sequence[int], layout: str) -> None:
    """Refuses an array whose shape is not `expected`; `layout` tells it in letters."""
    if array is not None and tuple(array.shape) != tuple(expected):
        raise ValueError(f"{name} has shape {array.shape}; expected {layout} = {tuple(expected)}.")


def axis_devices(mesh, axis_name: str) -> int:
    """How many devices a mesh axis has; 1 where the mesh lacks it."""
    return dict(zip(mesh.axis_names, mesh.axis_sizes)).get(axis_name, 1)


def free_axes(mesh) -> dict[str, int]:
    """The axes, with their sizes, that the compiler splits arrays over, not a shard_map around."""
    sizes = dict(zip(mesh.axis_names, mesh.axis_sizes))
    return {axis: size for axis, size in sizes.items() if axis not in mesh.manual_axes}


def over_mesh(local: Callable, by_heads: Sequence, by_rows: Sequence = ()):
    """local(*by_heads, *by_rows), each device of the mesh in use on its own rows and heads.

    The compiler cannot split a kernel, and how arrays lie is not known where it is called: a mesh
    axis splits rows where it divides them, else heads, and the other way round where it is one of
    `HEAD_AXES`; what neither divides is done on each of its devices. Arrays that lie otherwise are
    moved.

    Args:
      local: a function of the arrays of one device, whose results are [B, H, ...].
      by_heads: arrays [B, G, ...], each of H heads or of groups that divide them. Where there are
        fewer groups than devices, each device holds the one that its heads read.
      by_rows: arrays [B, ...].
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = free_axes(mesh)
    if not free or (math.prod(free.values()) == 1 and not mesh.manual_axes):
        return local(*by_heads, *by_rows)
    rows, groups = by_heads[0].shape[0], [x.shape[1] for x in by_heads]
    split, ways = {"rows": [], "heads": []}, {"rows": 1, "heads": 1}
    for axis, size in free.items():
        for kind in ("heads", "rows") if axis in HEAD_AXES else ("rows", "heads"):
            count = ways[kind] * size
            needed = count if kind == "rows" else math.lcm(count, *groups)
            if (rows if kind == "rows" else max(groups)) % needed == 0:
                split[kind].append(axis)
                ways[kind] = count
                break
    by_heads = [
        x if G % ways["heads"] == 0 else jnp.repeat(x, math.lcm(G, ways["heads"]) // G, axis=1)
        for x, G in zip(by_heads, groups)
    ]
    over_rows, over_heads = (tuple(split[kind]) or None for kind in ("rows", "heads"))
    both = PartitionSpec(over_rows, over_heads)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(*(both for _ in by_heads), *(PartitionSpec(over_rows) for _ in by_rows)),
        out_specs=both,
        axis_names=set(free),
        # a kernel does not say over which axes its output varies
        check_vma=False,
    )(*by_heads, *by_rows)


def check_grid(name: str, grid) -> None:
    """Refuses what is not a pair of positive integers."""
    fits = isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(n, Integral) for n in grid)
    require(
        fits and min(grid) >= 1,
        f"{name}={grid!r}; expected (rows, columns), integers of at least 1.",
    )


def kernel_obstacles(*arrays, interpreted: bool) -> list[str]:
    """What about machine, mesh and arrays keeps a TPU kernel from a call.

    On a CPU it can be `interpreted`: right, and slow.
    """
    machine = platform()
    here = machine == "tpu" or (machine == "cpu" and interpreted)
    return [
        *([] if here else [f"the backend {machine!r}"]),
        *call_obstacles(*arrays, dtypes=("bfloat16", "float32")),
    ]


def call_obstacles(*arrays, dtypes: Sequence[str]) -> list[str]:
    """What about mesh and arrays keeps a kernel for these dtypes from a call, on any machine."""
    mesh, given = jax.sharding.get_abstract_mesh(), sorted({str(x.dtype) for x in arrays})
    served = set(given) <= set(dtypes)
    return [
        obstacle
        for is_there, obstacle in (
            (not served, f"dtype {', '.join(given)} (only {' and '.join(dtypes)})"),
            (any(x.size == 0 for x in arrays), "empty arrays"),
            (any(kind == AxisType.Explicit for kind in mesh.axis_types), "a mesh of explicit axes"),
            (any(map(_varying_axes, arrays)), "shard_map with check_vma=True"),
        )
        if is_there
    ]


def check_implementation(
    op_name: str,
    implementation,
    available: Sequence[str],
    obstacles: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Refuses a named backend that cannot serve this call; None always passes.

    `obstacles` says of backends what they do not serve of it.

    Raises:
      ValueError: a name that no op knows.
      NotImplementedError: a known backend that does not serve this op here.
    """
    if implementation is None:
        return
    names = (implementation,) if isinstance(implementation, str) else tuple(implementation)
    for name in names:
        check_choice("implementation", name, ("xla", "cudnn", "pallas", "cpu"))
    if not any(name in available for name in names):
        served = ", ".join(repr(name) for name in available)
        reasons = "".join(
            f" {name} does not serve {', '.join(obstacles[name])}."
            for name in names
            if obstacles and name in obstacles
        )
        raise NotImplementedError(
            f"{op_name}: implementation={implementation!r} cannot serve this call here; "
            f"available: {served}.{reasons}"
        )


def first_available(implementation, available: Sequence[str]) -> str:
    """The first of the backends asked for that serves, after `check_implementation`."""
    names = (implementation,) if isinstance(implementation, str) else implementation
    return next(name for name in names if name in available)
