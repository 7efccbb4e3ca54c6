"""Large kernels: what a network with few of them sees, and what is left of it after training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from scanmax.models import create_model

# Millions of parameters after training, as printed.
PUBLISHED = {
    "a": 4.4,
    "f": 6.2,
    "p": 10.7,
    "n": 18.3,
    "t": 31,
    "s": 56,
    "b": 98,
    "l": 218,
    "xl": 386,
}
SIDE, SHARE = 128, 0.5


def receptive_sides(kernel_size: int, layers: int, seeds: int) -> tuple[list[int], float]:
    """Sides of the squares that hold half of a place's influence, and what merging changes.

    Of UniRepLKNets at their first weights, of two stages whose second has so many layers of one
    kernel, norms by the batch's statistics and scales of 1.
    """
    model = create_model(
        "unireplknet_a",
        num_classes=10,
        dims=(8, 8),
        depths=(1, layers),
        heads=(1, 1),
        kernel_sizes=((3,), (kernel_size,)),
        layer_scale=1.0,
        norm_momentum=0.0,
    )

    @jax.jit
    def measured(key, images):
        variables = nn.unbox(model.init(key, images))
        seen = model.apply(variables, images, train=True, mutable=["batch_stats"])[1]
        variables, one = {**variables, **seen}, images[:1]
        merged, fewer = model.merge(variables)
        logits = model.apply(variables, one)
        change = jnp.linalg.norm(merged.apply(fewer, one) - logits) / jnp.linalg.norm(logits)

        def middle(x):
            last = merged.apply(fewer, x, method="features")[-1]
            return jnp.sum(last[0, last.shape[1] // 2, last.shape[2] // 2])

        return jnp.abs(jax.grad(middle)(one))[0].sum(-1), change

    place = (SIDE // 8 // 2) * 8 + 4
    row, column = np.indices((SIDE, SIDE))
    reach = np.maximum(np.abs(row + 0.5 - place), np.abs(column + 0.5 - place))
    sides, changes = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        images = rng.normal(size=(4, SIDE, SIDE, 3)).astype(np.float32)
        influence, change = (np.asarray(x) for x in measured(jax.random.key(seed), images))
        shares = [influence[reach < half].sum() / influence.sum() for half in range(1, SIDE)]
        sides.append(2 * (1 + int(np.argmax(np.array(shares) >= SHARE))))
        changes.append(float(change))
    return sides, max(changes)


@claim("few-large-kernels", paper="unireplknet-journal", by_hand=True)
def few_large_kernels(quick):
    """Few large kernels see more than many small ones; after training a kernel a layer is left."""
    size = 7 if quick else 13
    sides: dict[str, list[int]] = {}
    changes = []
    for kernel_size, layers in ((size, 2), (3, 2), (3, 6)):
        found, change = receptive_sides(kernel_size, layers, 1 if quick else 3)
        sides[f"{layers} layers of {kernel_size} x {kernel_size}"] = found
        changes.append(change)
    (large, own), *others = sides.items()
    findings = [
        Finding(
            f"side of the square of half the influence at init, {large} against {small}",
            "wider",
            f"{np.mean(own):.0f} against {np.mean(other):.0f} of {SIDE} pixels",
            min(own) > max(other),
        )
        for small, other in others
    ]
    change, what = max(changes), "change of logits by merging, relative"
    findings.append(Finding(what, "0", f"{change:.0e}", change < 1e-4))
    for name, published in PUBLISHED.items():
        if quick and name != "a":
            continue
        model = create_model(f"unireplknet_{name}", merged=True, layer_scale=None)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) / 1e6
        findings.append(
            Finding(
                f"million parameters of {name.upper()} after training",
                f"{published}",
                f"{count:.2f}",
                abs(count / published - 1) < 0.02,
            )
        )
    return findings
