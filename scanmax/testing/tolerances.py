"""The tolerances that `OpSuite` and `ModelSuite` hold an op or a model to.

They are the project's promise; tests/tolerances.py states them a second time and a test compares
the two, so that neither drifts alone. A suite of your own may carry other numbers
(`tolerances = dataclasses.replace(DEFAULT, rms_bf16=3e-2)`); no environment variable changes them.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """Bounds by level; "relative" means relative to the largest entry of what is expected."""

    # Level 1: an op against its reference in float64, relative.
    forward_f64: float = 1e-12
    # Level 2: relative RMS against the float64 reference of the rounded inputs.
    rms_f32: float = 2e-6
    rms_bf16: float = 2e-2
    # Level 3: vector-Jacobian products against the reference's, and against finite differences.
    vjp_f64: float = 1e-10
    check_grads_f64: float = 1e-6
    # Level 4: jit = eager, vmap, chunk sizes, split and resume, steps, in float64, relative.
    equivalence_f64: float = 1e-12


DEFAULT = Tolerances()
