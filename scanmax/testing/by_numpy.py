"""`by_numpy`: a function's operations done one by one in numpy, where compiling is what they cost.

A loop from an equation is thousands of small operations. Done eagerly each of its kinds and shapes
is compiled alone, and compiled whole it takes longer still; numpy needs neither.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.special

# Operations that hold the operations of a function.
_CALLS = {
    "pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint",
}  # fmt: skip


def by_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced once a call and then evaluated in numpy; gradients may lie within.

    What numpy has no operation for is done by JAX.

    Example:
      value, slope = by_numpy(jax.value_and_grad(lambda x: x**2))(3.0)
    """

    def call(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        return numpy_program(closed, shapes)(*args)

    return call


def numpy_program(closed: Any, shapes: Any) -> Callable[..., Any]:
    """What a traced function does, in numpy; `shapes` is a tree as that of its results."""

    def call(*args: Any) -> Any:
        # A row of NaN or an empty sum may be what is asked for.
        with np.errstate(all="ignore"):
            found = _evaluated(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return call


def is_numpys(jaxpr: Any) -> bool:
    """Whether numpy has all of its operations."""
    return all(
        is_numpys(_inner(equation)[0])
        if equation.primitive.name in _CALLS
        else equation.primitive.name in _ALL and _fits(equation)
        for equation in jaxpr.eqns
    )


def _inner(equation: Any) -> tuple[Any, Any]:
    """The operations that an operation holds, and their constants."""
    keys = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    inner = next(equation.params[key] for key in keys if key in equation.params)
    return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())


def _evaluated(jaxpr: Any, consts: Any, args: Any) -> list[np.ndarray]:
    values: dict[Any, Any] = {}

    def read(variable):
        return np.asarray(variable.val) if hasattr(variable, "val") else values[variable]

    for names, given in ((jaxpr.constvars, consts), (jaxpr.invars, args)):
        for name, value in zip(names, given, strict=True):
            values[name] = np.asarray(value, name.aval.dtype) if _is_plain(value) else value
    for equation in jaxpr.eqns:
        found = _done(equation, [read(variable) for variable in equation.invars])
        for name, value in zip(equation.outvars, found, strict=True):
            values[name] = value
    return [read(variable) for variable in jaxpr.outvars]


def _is_plain(value: Any) -> bool:
    """Whether numpy can hold it: keys of random numbers it cannot."""
    return not jax.dtypes.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended)


def _done(equation: Any, given: list[Any]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        return _evaluated(*_inner(equation), given)
    if name in _ALL and _fits(equation) and all(_is_plain(value) for value in given):
        if name in _SEVERAL:
            return _SEVERAL[name](params, *given)
        is_elementwise = name in _ELEMENTWISE
        found = _ELEMENTWISE[name](*given) if is_elementwise else _OTHERS[name](params, *given)
        return [np.asarray(found).astype(equation.outvars[0].aval.dtype, copy=False)]
    # Of an older JAX a pair, of functions and what else there is.
    bound = equation.primitive.get_bind_params(params)
    functions, own = bound if isinstance(bound, tuple) else ((), bound)
    found = equation.primitive.bind(*functions, *given, **own)
    found = found if equation.primitive.multiple_results else [found]
    return [np.asarray(value) if _is_plain(value) else value for value in found]


def _fits(equation: Any) -> bool:
    # Of integers the two mean another division.
    is_division = equation.primitive.name == "div"
    return not is_division or np.issubdtype(equation.outvars[0].aval.dtype, np.inexact)


def _select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    if which.dtype == np.bool_:
        return np.where(which, cases[1], cases[0])
    return np.choose(which, cases)


def _product(params: Any, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    letters = iter(map(chr, range(97, 123)))
    of_left = [next(letters) for _ in range(left.ndim)]
    of_right = [next(letters) for _ in range(right.ndim)]
    for mine, other in (*zip(left_sum, right_sum), *zip(left_batch, right_batch)):
        of_right[other] = of_left[mine]
    batch = [of_left[axis] for axis in left_batch]
    rows = [x for axis, x in enumerate(of_left) if axis not in (*left_sum, *left_batch)]
    columns = [x for axis, x in enumerate(of_right) if axis not in (*right_sum, *right_batch)]
    to = "".join([*batch, *rows, *columns])
    return np.einsum(f"{''.join(of_left)},{''.join(of_right)}->{to}", left, right)


def _broadcast(params: Any, x: np.ndarray) -> np.ndarray:
    places = params["broadcast_dimensions"]
    sizes = [1] * len(params["shape"])
    for axis, place in enumerate(places):
        sizes[place] = x.shape[axis]
    return np.broadcast_to(x.reshape(sizes), params["shape"])


def _padded(params: Any, x: np.ndarray, filler: np.ndarray) -> np.ndarray:
    sizes, into, cut = [], [], []
    for size, (low, high, within) in zip(x.shape, params["padding_config"]):
        stretched = size + max(0, size - 1) * within
        sizes.append(stretched + max(low, 0) + max(high, 0))
        into.append(slice(max(low, 0), max(low, 0) + stretched, within + 1))
        cut.append(slice(max(-low, 0), sizes[-1] - max(-high, 0)))
    found = np.full(sizes, filler, x.dtype)
    found[tuple(into)] = x
    return found[tuple(cut)]


def _sliced(params: Any, x: np.ndarray) -> np.ndarray:
    steps = params["strides"] or (1,) * x.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], steps)
    return x[tuple(slice(*bound) for bound in bounds)]


def _converted(params: Any, x: np.ndarray) -> np.ndarray:
    is_complex = np.issubdtype(params["new_dtype"], np.complexfloating)
    # Of a complex number the real part, which numpy would warn of.
    return (x if is_complex else np.real(x)).astype(params["new_dtype"])


def _cumulated(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def call(params: Any, x: np.ndarray) -> np.ndarray:
        turn = (lambda y: np.flip(y, params["axis"])) if params["reverse"] else np.asarray
        return turn(function(turn(x), params["axis"]))

    return call


def _split(params: Any, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"])


def _unstacked(params: Any, x: np.ndarray) -> list[np.ndarray]:
    return list(np.moveaxis(x, params["axis"], 0))


def _along(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda params, x: function(x, axis=tuple(params["axes"]))


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "neg": np.negative, "exp": np.exp, "exp2": np.exp2, "log": np.log, "log1p": np.log1p,
    "expm1": np.expm1, "tanh": np.tanh, "logistic": scipy.special.expit, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "cos": np.cos, "abs": np.abs,
    "sign": np.sign, "max": np.maximum, "min": np.minimum, "pow": np.power, "square": np.square,
    "erf": scipy.special.erf, "erfc": scipy.special.erfc, "floor": np.floor, "ceil": np.ceil,
    "is_finite": np.isfinite, "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "select_n": _select,
    "clamp": lambda low, x, high: np.clip(x, low, high), "copy": np.copy, "copy_p": np.copy,
    "stop_gradient": np.asarray, "rem": np.fmod, "real": np.real, "imag": np.imag,
    "complex": lambda x, y: x + 1j * y,
}  # fmt: skip
_OTHERS: dict[str, Callable[..., Any]] = {
    "convert_element_type": _converted,
    "integer_pow": lambda params, x: (
        x ** params["y"] if params["y"] >= 0 else 1 / x ** -params["y"]
    ),
    "broadcast_in_dim": _broadcast,
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "squeeze": lambda params, x: np.squeeze(x, tuple(params["dimensions"])),
    "expand_dims": lambda params, x: np.expand_dims(x, tuple(params["dimensions"])),
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
    "concatenate": lambda params, *parts: np.concatenate(parts, params["dimension"]),
    "stack": lambda params, *parts: np.stack(parts, params["axis"]),
    "cumsum": _cumulated(np.cumsum),
    "cumprod": _cumulated(np.cumprod),
    "conj": lambda params, x: np.conj(x),
    "slice": _sliced,
    "pad": _padded,
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "dot_general": _product,
    "reduce_sum": _along(np.sum),
    "reduce_max": _along(np.max),
    "reduce_min": _along(np.min),
    "reduce_prod": _along(np.prod),
    "reduce_or": _along(np.any),
    "reduce_and": _along(np.all),
    "argmax": lambda params, x: np.argmax(x, params["axes"][0]),
    "argmin": lambda params, x: np.argmin(x, params["axes"][0]),
    "iota": lambda params: np.broadcast_to(
        np.arange(params["shape"][params["dimension"]]).reshape(
            [-1 if axis == params["dimension"] else 1 for axis in range(len(params["shape"]))]
        ),
        params["shape"],
    ),
}
_SEVERAL: dict[str, Callable[..., list[np.ndarray]]] = {"split": _split, "unstack": _unstacked}
_ALL = {*_ELEMENTWISE, *_OTHERS, *_SEVERAL}
