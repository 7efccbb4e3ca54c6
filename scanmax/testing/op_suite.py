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

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_vjp

from scanmax.testing import compare
from scanmax.testing.op_case import OpTestCase, compiled_if_quicker


class OpSuite(OpTestCase):
    """Levels 1 to 4 for one op; subclass it, the module's docstring shows how.

    What a subclass declares:
      op: the public op. reference: its equation, same signature without form, chunk_size,
        implementation; it runs in float64, and may read values and loop over time.
      cases: `OpCase`s. Level 1 runs on all, the rest on those marked full.
      make_args(rng, case): numpy arrays by argument name; float arrays are cast to each level's
        dtype, bool and integer arrays stay. A random `initial_state` is added on full cases.
      forms: the values of `form` to try; empty for ops without.
      sequence: names of the arguments whose axis after the batch axes is time. Their cases must
        cover `required_lengths` and 0, 1, 2 batch axes.
      differentiable: names to differentiate; None means every float array.
      accumulated: places among the outputs of those that stay in accumulator precision whatever
        the inputs, as losses and tables do.
      step: the one-token form, `step(state, *arrays at t, **options) -> (y_t, state)`.
      promotion, rank_promotion: "strict" and "raise", as the project's own ops are held: dtypes are
        cast and axes are added by hand, and what fails for it is told so. "standard" and "allow"
        let JAX do both.
      errors: tuples (changes, exception, regex): the first full case's arguments and options with
        `changes` applied (a function of the argument, or a new value) must raise so.
    Hooks: `init_state`, `step_call`, `poison`, `empty_rows`.
    """

    __test__ = False

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

    def test_level_1_numpy_arrays_serve(self):
        arrays, options = self.inputs(self.full_cases[0])
        plain = jax.tree.map(np.array, arrays)
        expected = self.expected(arrays, options)
        # Constants of a program, as they stand: what is given to one is an array of jax's.
        found = compiled_if_quicker(functools.partial(self._reference(options), **plain), ())()
        compare.assert_relative(found, expected, self.tolerances.forward_f64)
        compare.assert_relative(self.op(**plain, **options), expected, self.tolerances.forward_f64)
        compare.assert_bitwise(plain, arrays)

    # Level 2.

    def _check_low_precision(self, dtype, tolerance):
        for case in self.full_cases:
            arrays, options = self.inputs(case, dtype)
            exact = jax.tree.map(_exact, arrays)
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
                    for place, leaf in enumerate(jax.tree.leaves(output)):
                        if jnp.issubdtype(leaf.dtype, jnp.floating):
                            accumulated = place in self.accumulated
                            chex.assert_type(leaf, jnp.float32 if accumulated else dtype)
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
            output = self.smooth(self.expected(arrays, options))
            rng = np.random.default_rng(0)
            cotangent = jax.tree.map(
                lambda leaf, rng=rng: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), output
            )
            expected = self.expected_vjp(options, floats, others, cotangent)
            if "initial_state" in floats:
                for leaf in jax.tree.leaves(expected["initial_state"]):
                    self.assertGreater(float(jnp.abs(leaf).max()), 0.0, "state without gradient")
            for form in self.forms_of(case):
                with self.noting(case, form=form):
                    actual = self.compiled_vjp(options, form)(floats, others, cotangent)
                    compare.assert_relative(actual, expected, self.tolerances.vjp_f64)

    def test_level_3_gradients_equal_finite_differences(self):
        """Of one form: those of the others are the same, which the check above has seen."""
        for case in self.full_cases:
            arrays, options = self.inputs(case)
            floats, others = self.split_differentiable(arrays)
            for form in self.forms_of(case)[:1]:
                forward = self.compiled(options, form)
                backward = self.compiled_vjp(options, form)

                def function(floats, others=others, forward=forward):
                    return self.smooth(forward(**floats, **others))

                def function_vjp(floats, others=others, forward=forward, backward=backward):
                    def pull_back(cotangent):
                        return (backward(floats, others, cotangent),)

                    return self.smooth(forward(**floats, **others)), pull_back

                tolerance = self.tolerances.check_grads_f64
                with self.noting(case, form=form):
                    # The steps of differences are taken in numpy, which compiles nothing.
                    given = jax.tree.map(np.asarray, floats)
                    check_vjp(function, function_vjp, (given,), atol=tolerance, rtol=tolerance)

    # Level 4.

    @chex.variants(with_jit=True, without_jit=True)
    def test_level_4_jit_equals_eager(self):
        case = self.full_cases[0]
        arrays, options = self.inputs(case)
        expected = self.expected(arrays, options)
        # As its users call it: eagerly, each primitive of another form is compiled alone.
        eagerly = self.variant.type.name == "WITHOUT_JIT"
        with self.noting(case), jax.disable_jit(eagerly):
            actual = self.variant(functools.partial(self.op, **options))(**arrays)
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
            return jax.tree.map(lambda *leaves: np.stack(leaves), left, right)

        first = self.expected(arrays, options)
        stacked = {name: stack(arrays[name], others[name]) for name in arrays}
        alone = {
            name: stack(first, self.expected({**arrays, name: others[name]}, options))
            for name in arrays
        }
        at_once = stack(first, self.expected(others, options))
        for form in self.forms_of(case):
            chosen = options if form is None else {**options, "form": form}

            def over_each(arrays, stacked, chosen=chosen):
                def over_one(name):
                    return jax.vmap(lambda x: self.op(**{**arrays, name: x}, **chosen))

                return {name: over_one(name)(stacked[name]) for name in arrays}

            def over_all(arrays, stacked, chosen=chosen):
                return jax.vmap(lambda arrays: self.op(**arrays, **chosen))(stacked)

            # Each argument by itself costs as many programs; other forms are given all at once.
            is_first = form == self.forms_of(case)[0]
            over, expected = (over_each, alone) if is_first else (over_all, at_once)
            with self.noting(case, form=form):
                actual = jax.jit(over)(arrays, stacked)
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
                    join = functools.partial(np.concatenate, axis=len(case.batch))
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
            join = functools.partial(np.stack, axis=len(case.batch))
            whole = jax.tree.map(lambda *parts, join=join: join(parts), *outputs)
            actual = (whole, state) if options.get("return_state") else whole
            with self.noting(case):
                compare.assert_relative(actual, expected, self.tolerances.equivalence_f64)

    def _result_and_gradients(self, arrays, options, form):
        floats, others = self.split_differentiable(arrays)
        result = self.compiled(options, form)(**arrays)
        gradients = self.compiled_vjp(options, form)(
            floats, others, jax.tree.map(np.ones_like, self.smooth(result))
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

    def test_level_4_an_empty_batch_is_served(self):
        case = next((case for case in (*self.full_cases, *self.cases) if case.batch), None)
        if case is None:
            return
        empty = self.with_batch(case, (0, *case.batch[1:]))
        arrays, options = self.inputs(empty)
        expected = self.expected(arrays, options)
        for form in self.forms_of(case):
            with self.noting(empty, form=form):
                result, gradients = self._result_and_gradients(arrays, options, form)
                chex.assert_trees_all_equal_shapes_and_dtypes(result, expected)
                compare.assert_relative(
                    gradients, jax.tree.map(jnp.zeros_like, gradients), self.tolerances.vjp_f64
                )

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


def _exact(leaf):
    """The array in float64; one of integers or bools as it is."""
    is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jax.device_put(np.asarray(leaf, np.float64)) if is_float else leaf


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
