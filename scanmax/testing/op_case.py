"""What an op's suite is given, and what its levels share: cases, arguments, compiled functions."""

import contextlib
import copy
import functools
import inspect
import unittest
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scanmax.testing.by_numpy import is_numpys, numpy_program
from scanmax.testing.tolerances import DEFAULT, Tolerances

# Options that choose how and where an op computes, not what; references do not take them.
BACKEND_OPTIONS = ("form", "chunk_size", "implementation", "mesh", "axis_name", "order")
# Options of a whole-sequence op that its step does not take.
SEQUENCE_OPTIONS = (*BACKEND_OPTIONS, "is_causal", "return_state")
# Lengths around the default chunk, and the degenerate ones.
LENGTHS = (1, 2, 7, 63, 64, 65, 200)
# What JAX says where the suite's strictness refuses something: what to do, and what switches it.
STRICT = {
    "no available implicit dtype promotion path": (
        "strict promotion is on: cast, as x.astype(y.dtype) does, or set promotion = 'standard' in "
        "the suite"
    ),
    "jax_numpy_rank_promotion='raise'": (
        "rank promotion is off: give the array of fewer axes some of size 1 (align and spread of "
        "scanmax.ops.contract do), or set rank_promotion = 'allow' in the suite"
    ),
}
# Compiling a primitive alone takes about as long as compiling so many within one program.
ALONE = 12


class OpCase:
    """One set of shapes and options to try an op with.

    >>> case = OpCase(length=65, batch=(2,), heads=3, options={"is_causal": False})
    >>> case.length, case.heads
    (65, 3)

    Args:
      length: the sequence length T (ignored by ops without a sequence).
      batch: sizes of the leading batch axes.
      full: whether levels 2 to 4 run on it too; keep one or two small cases full.
      resume: whether a state can be carried in and out (no for bidirectional options).
      options: the op's keyword options, passed as they are.
      forms: the forms tried on it; None means all of the suite's.
      **sizes: anything else `make_args` reads, as attributes.
    """

    def __init__(
        self,
        *,
        length: int = 7,
        batch: Sequence[int] = (),
        full: bool = False,
        resume: bool = True,
        options: Mapping[str, Any] | None = None,
        forms: Sequence[str] | None = None,
        **sizes,
    ):
        self.length = length
        self.batch = tuple(batch)
        self.full = full
        self.resume = resume
        self.options = dict(options or {})
        self.forms = forms
        self.__dict__.update(sizes)

    @staticmethod
    def lengths(lengths: Sequence[int] = LENGTHS, **sizes) -> tuple["OpCase", ...]:
        """One case per length with 0, 1 and 2 batch axes in turn; T=7 is the full one.

        >>> [(case.length, case.batch) for case in OpCase.lengths((1, 7, 65))]
        [(1, ()), (7, (2,)), (65, (1, 2))]
        """
        batches = ((), (2,), (1, 2))
        full = 7 if 7 in lengths else lengths[0]
        return tuple(
            OpCase(length=length, batch=batches[i % 3], full=length == full, **sizes)
            for i, length in enumerate(lengths)
        )

    def __repr__(self) -> str:
        return f"OpCase({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"


class OpTestCase(chex.TestCase):
    """The declarations and hooks of `OpSuite`, which documents them; it has no tests."""

    __test__ = False
    op: Callable | None = None
    reference: Callable | None = None
    step: Callable | None = None
    cases: Sequence[OpCase] = ()
    forms: Sequence[str] = ()
    sequence: Sequence[str] = ()
    required_lengths: Sequence[int] = LENGTHS
    required_batch_ranks: Sequence[int] = (0, 1, 2)
    differentiable: Sequence[str] | None = None
    accumulated: Sequence[int] = ()
    errors: Sequence[tuple[Mapping[str, Any], type[Exception], str]] = ()
    tolerances: Tolerances = DEFAULT
    promotion: str = "strict"
    rank_promotion: str = "raise"

    def make_args(self, rng: np.random.Generator, case: OpCase) -> dict[str, np.ndarray]:
        """Arrays by argument name for one case."""
        raise NotImplementedError(f"{type(self).__name__} must define make_args")

    def init_state(self, arrays: dict, options: dict):
        """The state before the first step: the given one, or zeros of the returned shape."""
        if "initial_state" in arrays:
            return arrays["initial_state"]
        _, state = jax.eval_shape(
            lambda arrays: self.op(**arrays, **options, return_state=True), arrays
        )
        return jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), state)

    def step_call(self, state, arrays: dict, options: dict):
        """Calls `step` with one token's arrays: in the op's order, keyword-only ones by name."""
        positional, keywords = [], {}
        for name, parameter in inspect.signature(self.op).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                if name in arrays and name != "initial_state":
                    keywords[name] = arrays[name]
            else:
                positional.append(arrays.get(name))
        while positional and positional[-1] is None:
            positional.pop()
        kept = {name: value for name, value in options.items() if name not in SEQUENCE_OPTIONS}
        return self.step(state, *positional, **keywords, **kept)

    def poison(self, arrays: dict, case: OpCase) -> dict | None:
        """The arrays with NaN where the case's mask or lengths exclude them; None: no padding."""
        return None

    def empty_rows(self, arrays: dict, case: OpCase) -> np.ndarray | None:
        """True, broadcast over the output's leading axes, where a row attends to nothing."""
        return None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.__test__ = cls.__dict__.get("__test__", True)
        for name in ("op", "reference", "step"):
            function = cls.__dict__.get(name)
            # A plain function in a class body would become a method.
            if function is not None and not isinstance(function, staticmethod):
                setattr(cls, name, staticmethod(function))
        cls._compiled = {}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if cls.op is None or cls.reference is None:
            raise unittest.SkipTest(f"{cls.__name__} declares no op and reference")

    @classmethod
    def tearDownClass(cls):
        cls._compiled.clear()
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.numpy_dtype_promotion(self.promotion))
        self.enterContext(jax.numpy_rank_promotion(self.rank_promotion))
        self.enterContext(jax.default_matmul_precision("highest"))
        self.enterContext(warnings.catch_warnings())
        warnings.simplefilter("error")
        chex.clear_trace_counter()

    # What the levels share.

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.op).parameters

    @property
    def has_state(self) -> bool:
        return "initial_state" in self.parameters and "return_state" in self.parameters

    @staticmethod
    def with_batch(case: OpCase, batch: Sequence[int]) -> OpCase:
        """The case with other batch axes."""
        other = copy.copy(case)
        other.batch = tuple(batch)
        return other

    @property
    def full_cases(self) -> list[OpCase]:
        return [case for case in self.cases if case.full]

    def forms_of(self, case: OpCase) -> Sequence[str | None]:
        return (case.forms if case.forms is not None else self.forms) or (None,)

    def inputs(self, case: OpCase, dtype=jnp.float64, draw: int = 0) -> tuple[dict, dict]:
        """Arrays and options of a case; on a full one of an op with a state, with states too."""
        key = ("inputs", repr(case), jnp.dtype(dtype), draw)
        if key not in self._compiled:
            self._compiled[key] = self._draw_inputs(case, dtype, draw)
        arrays, options = self._compiled[key]
        return dict(arrays), dict(options)

    def _draw_inputs(self, case: OpCase, dtype, draw: int) -> tuple[dict, dict]:
        rng = np.random.default_rng([zlib.crc32(repr(case).encode()), draw])

        # Not jnp.asarray, which compiles a copy for every shape.
        def cast(value):
            value = np.asarray(value)
            is_float = np.issubdtype(value.dtype, np.floating)
            return jax.device_put(value.astype(dtype) if is_float else value)

        given = self.make_args(rng, case)
        arrays = {k: jax.tree.map(cast, v) for k, v in given.items() if v is not None}
        options = dict(case.options)
        if case.full and case.resume and self.has_state:
            options["return_state"] = True
            if "initial_state" not in arrays:
                _, state = jax.eval_shape(lambda arrays: self.op(**arrays, **options), arrays)
                arrays["initial_state"] = jax.tree.map(
                    lambda leaf: jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype)),
                    state,
                )
        return arrays, options

    def expected(self, arrays: dict, options: dict):
        """The reference's result."""
        reference = self._reference(options)
        return self._evaluated("reference", options, lambda arrays: reference(**arrays), arrays)

    def expected_vjp(self, options: dict, floats: dict, others: dict, cotangent) -> dict:
        """The reference's gradients by name."""
        reference = self._reference(options)

        def pull_back(floats, others, cotangent):
            _, pull = jax.vjp(lambda floats: self.smooth(reference(**floats, **others)), floats)
            return pull(cotangent)[0]

        return self._evaluated("reference's vjp", options, pull_back, floats, others, cotangent)

    def _reference(self, options: dict) -> Callable:
        kept = {name: value for name, value in options.items() if name not in BACKEND_OPTIONS}
        return functools.partial(self.reference, **kept)

    def _evaluated(self, name: str, options: dict, function: Callable, *args):
        """function(*args), as one program where that is quicker; kept for all tests of the class.

        An array of each shape costs a compilation of every primitive that it meets, so that most
        references compile five times faster whole.
        """
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)
        key = (name, tuple(sorted(options.items())), structure, shapes)
        with explained():
            if key not in self._compiled:
                self._compiled[key] = compiled_if_quicker(function, args)
            return self._compiled[key](*args)

    def compiled(self, options: dict, form: str | None = None) -> Callable:
        """The op under one outer jit, kept for all tests of the class."""
        options = options if form is None else {**options, "form": form}
        key = tuple(sorted(options.items(), key=lambda item: item[0]))
        if key not in self._compiled:
            self._compiled[key] = jax.jit(functools.partial(self.op, **options))
        return self._compiled[key]

    def compiled_vjp(self, options: dict, form: str | None) -> Callable:
        """(differentiated arrays, the other arrays, cotangent) -> gradients by name, jitted."""
        op = self.compiled(options, form)
        if (op, "vjp") not in self._compiled:

            def pull_back(floats, others, cotangent):
                _, pull = jax.vjp(lambda floats: self.smooth(op(**floats, **others)), floats)
                return pull(cotangent)[0]

            self._compiled[op, "vjp"] = jax.jit(pull_back)
        return self._compiled[op, "vjp"]

    @staticmethod
    def smooth(output):
        """The output with None for what has no gradient: integers, bools."""
        return jax.tree.map(
            lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else None, output
        )

    def split_differentiable(self, arrays: dict) -> tuple[dict, dict]:
        """The arrays that are differentiated, and the rest."""

        def is_float(value):
            return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(value))

        names = self.differentiable
        if names is not None and "initial_state" in arrays:
            names = (*names, "initial_state")
        floats = {k: v for k, v in arrays.items() if is_float(v) and (names is None or k in names)}
        return floats, {k: v for k, v in arrays.items() if k not in floats}

    def at_times(self, arrays: dict, case: OpCase, index) -> dict:
        """The arrays with the time axis of the sequence arguments indexed."""
        where = (slice(None),) * len(case.batch) + (index,)
        return {
            k: jax.device_put(np.asarray(v)[where]) if k in self.sequence else v
            for k, v in arrays.items()
        }

    @contextlib.contextmanager
    def noting(self, case: OpCase, **details):
        """Adds the case to the traceback of whatever fails inside."""
        try:
            with explained():
                yield
        except Exception as error:
            listed = "".join(f", {name}={value!r}" for name, value in details.items())
            error.add_note(f"in {case!r}{listed}")
            raise


@contextlib.contextmanager
def explained():
    """Adds to an error of the suite's strictness what to do about it."""
    try:
        yield
    except Exception as error:
        told = " ".join(str(error).split())
        for said, remedy in STRICT.items():
            if said in told and remedy not in getattr(error, "__notes__", ()):
                error.add_note(remedy)
        raise


def compiled_if_quicker(function: Callable, args: tuple) -> Callable:
    """The function in numpy, which compiles nothing; as one program for these arguments; or itself.

    Itself where it repeats few primitives often, as a loop over time does: run one by one, each is
    compiled once. One that reads values can be nothing else.
    """
    try:
        traced = jax.jit(function).trace(*args)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
        return function
    if is_numpys(traced.jaxpr.jaxpr):
        return numpy_program(traced.jaxpr, traced.out_info)
    kinds = set()
    whole = _count(traced.jaxpr, kinds) <= ALONE * len(kinds)
    return traced.lower().compile() if whole else function


def _count(jaxpr, kinds: set) -> int:
    """How many primitives the program has; adds to `kinds` those that differ."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [value for value in equation.params.values() if hasattr(value, "eqns")]
        options = () if inner else tuple(map(str, equation.params.values()))
        avals = tuple(str(variable.aval) for variable in (*equation.invars, *equation.outvars))
        kinds.add((equation.primitive.name, equation.params.get("name"), avals, options))
        total += sum(_count(value, set()) for value in inner) if inner else 1
    return total
