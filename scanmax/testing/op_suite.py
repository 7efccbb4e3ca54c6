"""`OpSuite`: the test levels that every op passes, for your own op too.

A subclass says what the op is, what its equation is, and how its arguments are made:

    import jax, jax.numpy as jnp
    from scanmax.ops.contract import op
    from scanmax.testing import OpCase, OpSuite

    @op()
    def decayed_sum(x, decay):          # y_t = decay y_{t-1} + x_t
        def combine(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]
        decays = jnp.broadcast_to(decay, x.shape)
        return jax.lax.associative_scan(combine, (decays, x), axis=-2)[1]

    def decayed_sum_reference(x, decay):
        y = [x[..., 0, :]]
        for t in range(1, x.shape[-2]):
            y.append(decay * y[-1] + x[..., t, :])
        return jnp.stack(y, axis=-2)

    class DecayedSumTest(OpSuite):
        op = decayed_sum
        reference = decayed_sum_reference
        sequence = ("x",)
        cases = OpCase.lengths(width=3)

        def make_args(self, rng, case):
            return {
                "x": rng.normal(size=(*case.batch, case.length, case.width)),
                "decay": rng.uniform(0.1, 0.9, size=()),
            }

and `pytest` or `unittest` runs four levels on it: equal to the reference in float64 (1), accurate
in float32 and bfloat16 (2), with the reference's gradients (3), and the same under jit, vmap, other
chunk sizes, split and resumed, step by step, rerun, and with bad arguments (4). What an op has
(`form`, `chunk_size`, `initial_state` with `return_state`) is read off its signature.

docs/adding_an_op.md walks through an op with a state, a step and forms.
"""

import contextlib
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
from jax.test_util import check_vjp

from scanmax.testing import compare
from scanmax.testing.tolerances import DEFAULT, Tolerances

# Options that choose how an op computes, not what; references do not take them.
BACKEND_OPTIONS = ("form", "chunk_size", "implementation")
# Options of a whole-sequence op that its step does not take.
SEQUENCE_OPTIONS = (*BACKEND_OPTIONS, "is_causal", "return_state")
# Lengths around the default chunk, and the degenerate ones.
LENGTHS = (1, 2, 7, 63, 64, 65, 200)


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


class OpSuite(chex.TestCase):
    """Levels 1 to 4 for one op; subclass it, the module's docstring shows how.

    What a subclass declares:
      op: the public op. reference: its equation, same signature without form, chunk_size,
        implementation; it runs eagerly in float64.
      cases: `OpCase`s. Level 1 runs on all, the rest on those marked full.
      make_args(rng, case): numpy arrays by argument name; float arrays are cast to each level's
        dtype, bool and integer arrays stay. A random `initial_state` is added on full cases.
      forms: the values of `form` to try; empty for ops without.
      sequence: names of the arguments whose axis after the batch axes is time. Their cases must
        cover `required_lengths` and 0, 1, 2 batch axes.
      differentiable: names to differentiate; None means every float array.
      step: the one-token form, `step(state, *arrays at t, **options) -> (y_t, state)`.
      errors: tuples (changes, exception, regex): the first full case's arguments and options with
        `changes` applied (a function of the argument, or a new value) must raise so.
    Hooks: `init_state`, `step_call`, `poison`, `empty_rows`.
    """

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
    errors: Sequence[tuple[Mapping[str, Any], type[Exception], str]] = ()
    tolerances: Tolerances = DEFAULT

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
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)

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

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.numpy_dtype_promotion("strict"))
        self.enterContext(jax.numpy_rank_promotion("raise"))
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

    @property
    def full_cases(self) -> list[OpCase]:
        return [case for case in self.cases if case.full]

    def forms_of(self, case: OpCase) -> Sequence[str | None]:
        return (case.forms if case.forms is not None else self.forms) or (None,)

    def inputs(self, case: OpCase, dtype=jnp.float64, draw: int = 0) -> tuple[dict, dict]:
        """Arrays and options of a case; on a full one of an op with a state, with states too."""
        rng = np.random.default_rng([zlib.crc32(repr(case).encode()), draw])

        def cast(value):
            value = np.asarray(value)
            is_float = np.issubdtype(value.dtype, np.floating)
            return jnp.asarray(value, dtype if is_float else value.dtype)

        given = self.make_args(rng, case)
        arrays = {k: jax.tree.map(cast, v) for k, v in given.items() if v is not None}
        options = dict(case.options)
        if case.full and case.resume and self.has_state:
            options["return_state"] = True
            if "initial_state" not in arrays:
                _, state = jax.eval_shape(lambda arrays: self.op(**arrays, **options), arrays)
                arrays["initial_state"] = jax.tree.map(
                    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), state
                )
        return arrays, options

    def expected(self, arrays: dict, options: dict):
        """The reference's result."""
        kept = {name: value for name, value in options.items() if name not in BACKEND_OPTIONS}
        return self.reference(**arrays, **kept)

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
                return jax.vjp(lambda floats: op(**floats, **others), floats)[1](cotangent)[0]

            self._compiled[op, "vjp"] = jax.jit(pull_back)
        return self._compiled[op, "vjp"]

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
        return {k: v[where] if k in self.sequence else v for k, v in arrays.items()}

    @contextlib.contextmanager
    def noting(self, case: OpCase, **details):
        """Adds the case to the traceback of whatever fails inside."""
        try:
            yield
        except Exception as error:
            listed = "".join(f", {name}={value!r}" for name, value in details.items())
            error.add_note(f"in {case!r}{listed}")
            raise

    # Level 1.

    def test_level_1_cases_cover_the_contract(self):
        self.assertTrue(self.full_cases, "mark at least one small case full=True")
        if self.sequence:
            missing = set(self.required_lengths) - {case.length for case in self.cases}
            self.assertFalse(missing, f"no case of length {sorted(missing)}")
            missing = set(self.required_batch_ranks) - {len(case.batch) for case in self.cases}
            self.assertFalse(missing, f"no case with {sorted(missing)} batch axes")
        if self.step is None and self.sequence and self.has_state:
            self.fail("an op with a state has a one-token form: declare `step`")

    def test_level_1_equals_the_reference(self):
        for case in self.cases:
            arrays, options = self.inputs(case)
            expected = self.expected(arrays, options)
            for form in self.forms_of(case):
                with self.noting(case, form=form):
                    actual = self.compiled(options, form)(**arrays)
                    chex.assert_trees_all_equal_dtypes(actual, expected)
                    compare.assert_relative(actual, expected, self.tolerances.forward_f64)

    # Level 2.

    def _check_low_precision(self, dtype, tolerance):
        for case in self.full_cases:
            arrays, options = self.inputs(case, dtype)
            exact = jax.tree.map(
                lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x,
                arrays,
            )
            expected = self.expected(exact, options)
            for form in self.forms_of(case):
                with self.noting(case, form=form, dtype=dtype):
                    actual = self.compiled(options, form)(**arrays)
                    if options.get("return_state"):
                        output, state = actual
                        for leaf in jax.tree.leaves(state):
                            if jnp.issubdtype(leaf.dtype, jnp.floating):
                                chex.assert_type(leaf, jnp.float32)
                    else:
                        output = actual
                    chex.assert_type(jax.tree.leaves(output), dtype)
                    compare.assert_rms(actual, expected, tolerance)

    def test_level_2_float32(self):
        self._check_low_precision(jnp.float32, self.tolerances.rms_f32)

    def test_level_2_bfloat16(self):
        self._check_low_precision(jnp.bfloat16, self.tolerances.rms_bf16)

    # Level 3.

    def test_level_3_gradients_equal_the_references(self):
        for case in self.full_cases:
            arrays, options = self.inputs(case)
            floats, others = self.split_differentiable(arrays)
            output, pull_back = jax.vjp(
                lambda floats, others=others, options=options: self.expected(
                    {**floats, **others}, options
                ),
                floats,
            )
            rng = np.random.default_rng(0)
            cotangent = jax.tree.map(
                lambda leaf, rng=rng: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), output
            )
            (expected,) = pull_back(cotangent)
            if "initial_state" in floats:
                for leaf in jax.tree.leaves(expected["initial_state"]):
                    self.assertGreater(float(jnp.abs(leaf).max()), 0.0, "state without gradient")
            for form in self.forms_of(case):
                with self.noting(case, form=form):
                    actual = self.compiled_vjp(options, form)(floats, others, cotangent)
                    compare.assert_relative(actual, expected, self.tolerances.vjp_f64)

    def test_level_3_gradients_equal_finite_differences(self):
        for case in self.full_cases:
            arrays, options = self.inputs(case)
            floats, others = self.split_differentiable(arrays)
            for form in self.forms_of(case):
                forward = self.compiled(options, form)
                backward = self.compiled_vjp(options, form)

                def function(floats, others=others, forward=forward):
                    return forward(**floats, **others)

                def function_vjp(floats, others=others, forward=forward, backward=backward):
                    def pull_back(cotangent):
                        return (backward(floats, others, cotangent),)

                    return forward(**floats, **others), pull_back

                tolerance = self.tolerances.check_grads_f64
                with self.noting(case, form=form):
                    check_vjp(function, function_vjp, (floats,), atol=tolerance, rtol=tolerance)

    # Level 4.

    @chex.variants(with_jit=True, without_jit=True)
    def test_level_4_jit_equals_eager(self):
        case = self.full_cases[0]
        arrays, options = self.inputs(case)
        expected = self.expected(arrays, options)
        with_jit = self.variant.type.name == "WITH_JIT"
        forms = (None,) if with_jit else (None, *self.forms_of(case))
        for form in dict.fromkeys(forms):
            chosen = options if form is None else {**options, "form": form}
            with self.noting(case, form=form), contextlib.ExitStack() as stack:
                if not with_jit:
                    stack.enter_context(jax.disable_jit())
                actual = self.variant(functools.partial(self.op, **chosen))(**arrays)
                compare.assert_relative(actual, expected, self.tolerances.equivalence_f64)

    def test_level_4_same_shapes_trace_once(self):
        case = self.full_cases[0]
        arrays, options = self.inputs(case)
        others, _ = self.inputs(case, draw=1)

        def call(arrays):
            return self.op(**arrays, **options)

        outer = jax.jit(chex.assert_max_traces(call, n=1))
        outer(arrays)
        outer(others)
        self.op(**arrays, **options)
        with _counting_traces() as traces:
            self.op(**others, **options)
        self.assertFalse(traces, "the op is traced again for the same shapes; jit it as a whole")

    def test_level_4_reruns_are_bitwise_equal(self):
        for case in self.full_cases:
            arrays, options = self.inputs(case)
            for form in self.forms_of(case):
                with self.noting(case, form=form):
                    function = self.compiled(options, form)
                    compare.assert_bitwise(function(**arrays), function(**arrays))

    def test_level_4_vmap_over_each_argument(self):
        case = self.full_cases[0]
        arrays, options = self.inputs(case)
        others, _ = self.inputs(case, draw=1)

        def stack(left, right):
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), left, right)

        first = self.expected(arrays, options)
        stacked = {name: stack(arrays[name], others[name]) for name in arrays}
        expected = {
            name: stack(first, self.expected({**arrays, name: others[name]}, options))
            for name in arrays
        }
        for form in self.forms_of(case):
            chosen = options if form is None else {**options, "form": form}

            def over_each(arrays, stacked, chosen=chosen):
                def over(name):
                    return jax.vmap(lambda x: self.op(**{**arrays, name: x}, **chosen))

                return {name: over(name)(stacked[name]) for name in arrays}

            with self.noting(case, form=form):
                actual = jax.jit(over_each)(arrays, stacked)
                compare.assert_relative(actual, expected, self.tolerances.equivalence_f64)

    def test_level_4_any_chunk_size(self):
        if "chunk_size" not in self.parameters:
            return
        case = self.full_cases[0]
        arrays, options = self.inputs(case)
        expected = self.expected(arrays, options)
        form = "chunked" if "chunked" in self.forms_of(case) else None
        for chunk_size in sorted({1, 2, max(case.length - 2, 3), case.length, 3 * case.length + 1}):
            with self.noting(case, form=form, chunk_size=chunk_size):
                actual = self.compiled({**options, "chunk_size": chunk_size}, form)(**arrays)
                compare.assert_relative(actual, expected, self.tolerances.equivalence_f64)

    def test_level_4_split_and_resume_equals_whole(self):
        if not self.has_state:
            return
        for case in self.full_cases:
            if not case.resume or case.length < 2:
                continue
            arrays, options = self.inputs(case)
            expected = self.expected(arrays, options)
            split = case.length // 2
            head = self.at_times(arrays, case, slice(0, split))
            tail = self.at_times(arrays, case, slice(split, None))
            for form in self.forms_of(case):
                with self.noting(case, form=form, split=split):
                    function = self.compiled(options, form)
                    first, state = function(**head)
                    second, state = function(**{**tail, "initial_state": state})
                    join = functools.partial(jnp.concatenate, axis=len(case.batch))
                    whole = jax.tree.map(lambda *parts, join=join: join(parts), first, second)
                    compare.assert_relative(
                        (whole, state), expected, self.tolerances.equivalence_f64
                    )

    def test_level_4_steps_equal_whole(self):
        if self.step is None:
            return
        for case in self.full_cases:
            if not case.resume:
                continue
            arrays, options = self.inputs(case)
            expected = self.expected(arrays, options)
            state = self.init_state(arrays, options)
            arrays.pop("initial_state", None)
            step = jax.jit(
                lambda state, arrays, options=options: self.step_call(state, arrays, options)
            )
            outputs = []
            for t in range(case.length):
                y, state = step(state, self.at_times(arrays, case, t))
                outputs.append(y)
            join = functools.partial(jnp.stack, axis=len(case.batch))
            whole = jax.tree.map(lambda *parts, join=join: join(parts), *outputs)
            actual = (whole, state) if options.get("return_state") else whole
            with self.noting(case):
                compare.assert_relative(actual, expected, self.tolerances.equivalence_f64)

    def _result_and_gradients(self, arrays, options, form):
        floats, others = self.split_differentiable(arrays)
        result = self.compiled(options, form)(**arrays)
        gradients = self.compiled_vjp(options, form)(
            floats, others, jax.tree.map(jnp.ones_like, result)
        )
        return result, gradients

    def test_level_4_nan_in_padding_is_harmless(self):
        for case in self.cases:
            arrays, options = self.inputs(case)
            poisoned = self.poison(arrays, case)
            if poisoned is None:
                continue
            for form in self.forms_of(case):
                with self.noting(case, form=form):
                    expected = self._result_and_gradients(arrays, options, form)
                    actual = self._result_and_gradients(poisoned, options, form)
                    chex.assert_tree_all_finite(actual)
                    compare.assert_relative(actual, expected, self.tolerances.equivalence_f64)

    def test_level_4_empty_rows_are_zero(self):
        for case in self.cases:
            arrays, options = self.inputs(case)
            rows = self.empty_rows(arrays, case)
            if rows is None:
                continue
            for form in self.forms_of(case):
                with self.noting(case, form=form):
                    result, gradients = self._result_and_gradients(arrays, options, form)
                    output = result[0] if options.get("return_state") else result
                    axes = (1,) * (output.ndim - np.ndim(rows))
                    where = np.broadcast_to(
                        np.reshape(rows, (*np.shape(rows), *axes)), output.shape
                    )
                    self.assertTrue(where.any(), "empty_rows names no row")
                    self.assertFalse(np.asarray(output)[where].any(), "an empty row is not zero")
                    chex.assert_tree_all_finite((result, gradients))

    def test_level_4_bad_arguments_raise(self):
        arrays, options = self.inputs(self.full_cases[0])
        for changes, exception, pattern in self.errors:
            given = {**arrays, **options}
            for name, change in changes.items():
                given[name] = (
                    change(arrays[name]) if name in arrays and callable(change) else change
                )
            with self.subTest(pattern=pattern), self.assertRaisesRegex(exception, pattern):
                self.op(**given)


@contextlib.contextmanager
def _counting_traces():
    """Collects the names of functions traced inside the context."""
    traced = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/jaxpr_trace_duration":
            traced.append(details.get("fun_name", "a function"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield traced
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
