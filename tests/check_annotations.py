"""Holds the annotations of the ops to the arrays of their suites; run by tests/test_api.py.

A process of its own, because jaxtyping's import hook has to stand before scanmax is imported, and
because under it a wrong shape raises the hook's error instead of the op's. Calls are only traced.
"""

import doctest
import importlib.util
import inspect
import pathlib
import sys

import jax
import numpy as np
from jaxtyping import install_import_hook

WANTED = ("The problem arose", "Actual value", "Expected type")
TESTS = pathlib.Path(__file__).parent


def summary(error: Exception) -> str:
    """The lines of a violation that say what was given and expected."""
    lines = [line for line in str(error).splitlines() if line.startswith(WANTED)]
    return " ".join(lines) or str(error)


def main() -> int:
    """Prints each violation; the exit status says whether there was one."""
    sys.path.insert(0, str(TESTS))
    with install_import_hook("scanmax.ops", "beartype.beartype"):
        from scanmax import ops
        from scanmax.testing import OpSuite

    failures, calls, traced = [], 0, set()
    for path in sorted((TESTS / "ops").rglob("test_*.py")):
        spec = importlib.util.spec_from_file_location("_".join(path.parts[-2:]), path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for suite in vars(module).values():
            if isinstance(suite, type) and issubclass(suite, OpSuite) and suite.__test__:
                test, seen = suite(), set()
                traced.add(suite.op)
                with jax.enable_x64(True):
                    for case in suite.cases:
                        try:
                            arrays, options = test.inputs(case)
                            # Axes are what is held, not how long they are.
                            kind = repr((jax.tree.map(np.ndim, arrays), options))
                            if kind in seen:
                                continue
                            seen.add(kind)
                            calls += 1
                            jax.eval_shape(
                                lambda arrays, op=suite.op, options=options: op(
                                    **arrays, **options
                                ),
                                arrays,
                            )
                        except Exception as error:
                            failures.append(f"{suite.__name__}, {case}: {summary(error)}")
    # Those that no suite calls show their arrays in their example.
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for name in (name for name in ops.__all__ if name.islower()):
        function = getattr(ops, name)
        if callable(function) and function not in traced:
            text = inspect.getdoc(function)
            runner.run(doctest.DocTestParser().get_doctest(text, {}, name, None, 0))
    print("\n".join(failures))
    print(f"{calls} calls, {len(failures)} violations; {runner.failures} failed examples")
    return int(bool(failures or runner.failures or not calls))


if __name__ == "__main__":
    sys.exit(main())
