"""What Patchout saves of a step, and what it is worth, on the digits; three seeds."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.claims import Finding, claim
from benchmarks.claims.few_digits_runs import (
    above,
    accuracy,
    any_place,
    few,
    learn,
    objective_of,
)
from scanmax.models import create_model

# Patches of 2 x 2 pixels: 16 of them, of which 9, or 8 anywhere, are left.
FIELDS = {"img_size": 8, "patch_size": 2, "dim": 32, "depth": 2, "heads": 2}
EPOCHS = 30
WAYS: dict[str, dict[str, Any] | None] = {
    "all patches": None,
    "structured": {"rows": 1, "columns": 1},
    "unstructured": {"tokens": 0.5},
}


def operations(model: Any) -> float:
    """Floating-point operations of a gradient of one batch of 32, as XLA counts them."""
    images = jax.ShapeDtypeStruct((32, 8, 8, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(variables, images, key):
        return jnp.sum(model.apply(variables, images, train=True, rngs={"dropout": key}))

    lowered = jax.jit(jax.grad(loss)).lower(variables, images, jax.random.key(0))
    return lowered.compile().cost_analysis()["flops"]


@claim("digits-patchout", paper="passt-patchout", by_hand=True)
def digits_patchout(quick):
    """Trained on half of the patches a ViT is as good, for half of the work."""
    findings, scores, work = [], {}, {}
    for name, patchout in WAYS.items():
        model = create_model("deit_tiny_patch16_224", 10, patchout=patchout, **FIELDS)
        runs = learn(objective_of(model), few(1400), any_place, accuracy, epochs=EPOCHS)
        scores[name], work[name] = runs.at("accuracy"), operations(model)
    for name, left in (("structured", 9), ("unstructured", 8)):
        share = work[name] / work["all patches"]
        what = f"operations of a step with {left} of 16 patches, over one with all"
        findings.append(Finding(what, "less", f"{share:.2f}", share < 0.7))
        what = f"patchout, {name}, and all patches, held-out digits, 1400 learned"
        findings += above(what, scores[name], "all patches", scores["all patches"])
    return findings
