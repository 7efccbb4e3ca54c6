"""What every op shares: how it is jitted, how it accumulates, and how it refuses bad arguments."""

import functools
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

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


def recomputed(function, *kept: str):
    """The function, whose inputs the backward pass keeps, and values of these `checkpoint_name`s.

    Where the forward pass is another program, as of a loop over layers, all that is kept between
    the two is written out for every layer: a float32 copy for each step of a norm, unless it is
    computed again. In one program the compiler finds both equal, and nothing changes.
    """
    policy = jax.checkpoint_policies.save_only_these_names(*kept)
    return jax.checkpoint(function, policy=policy, prevent_cse=False)


# Beside these, and products in their operands' dtype, a loop over layers keeps values of `kept`.
DEAR = frozenset({"conv_general_dilated", "custom_call", "fft", "pallas_call", "sort", "top_k"})
KEPT = ("kept", "mean", "inverse_rms")


def kept(x):
    """Marks what a backward pass that computes the rest again should find."""
    return checkpoint_name(x, KEPT[0])


def what_is_dear(primitive, *avals, **params) -> bool:
    """A policy of `jax.checkpoint`: products and marked values are kept, the rest made again.

    A product in a wider dtype than its operands, as of queries and keys in bfloat16, is what ops
    accumulate in: they mark the narrow values that they make of it.
    """
    if primitive.name == "dot_general":
        wanted = params["preferred_element_type"]
        return wanted is None or jnp.dtype(wanted).itemsize <= avals[0].dtype.itemsize
    return primitive.name in DEAR or (primitive.name == "name" and params["name"] in KEPT)


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


def check_grid(name: str, grid) -> None:
    """Refuses what is not a pair of positive integers."""
    fits = isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(n, Integral) for n in grid)
    require(
        fits and min(grid) >= 1,
        f"{name}={grid!r}; expected (rows, columns), integers of at least 1.",
    )


def check_implementation(op_name: str, implementation, available: Sequence[str]) -> None:
    """Refuses a named backend that cannot serve this call; None always passes.

    Raises:
      ValueError: a name that no op knows.
      NotImplementedError: a known backend that does not serve this op here.
    """
    if implementation is None:
        return
    names = (implementation,) if isinstance(implementation, str) else tuple(implementation)
    for name in names:
        check_choice("implementation", name, ("xla", "cudnn", "pallas"))
    if not any(name in available for name in names):
        served = ", ".join(repr(name) for name in available)
        raise NotImplementedError(
            f"{op_name}: implementation={implementation!r} cannot serve this call here; "
            f"available: {served}."
        )
