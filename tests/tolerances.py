"""Every tolerance of the suite, in one place. No environment variable loosens them.

They restate section "tests" of docs/conventions.md; a change is a change of the product's promise.
"""

# Level 1: an op against its reference in float64, elementwise relative to the largest entry.
FORWARD_F64 = 1e-12
# Level 2: relative RMS against the float64 reference of the rounded inputs.
RMS_F32 = 2e-6
RMS_BF16 = 2e-2
# Level 3: vector-Jacobian products against the reference's, and check_grads, in float64.
VJP_F64 = 1e-10
CHECK_GRADS_F64 = 1e-6
# Level 4: jit = eager, vmap, chunk sizes, split and resume, steps, in float64.
EQUIVALENCE_F64 = 1e-12
# Level 5: sharded against one device.
SHARDED = 1e-5
SHARDED_INIT = 6e-8
# Level 7: converted weights against the peer's logits and gradients.
PARITY = 1e-4
