"""What the paths of a ViT are worth on digits, with scales of the ensemble and without."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim

SCALED = {"ensemble_scale": 1.0}


def _varying(total, prefix: int) -> float:
    """Share of the energy of a sum's map beside that of its mean: what frequencies above 0 have."""
    patches = np.asarray(total, np.float64)[:, prefix:]
    mean = patches.mean(1, keepdims=True)
    return float(((patches - mean) ** 2).sum() / (patches**2).sum())


def _trained(fields, quick):
    """For each seed: the accuracies, whole and without each path, and how the sum varies."""
    from benchmarks.claims.learning import SEEDS, curves, folder
    from scanmax.configs import digits_vit
    from scanmax.models.vision.path_ensemble import path_ablation
    from scanmax.train import sharding
    from scanmax.train.build import build
    from scanmax.train.feed import to_device
    from scanmax.train.inference import load_for_inference

    config, name = digits_vit.get_config(), "paths-" + "-".join(fields or ["plain"])
    config.model.kwargs = {**config.model.kwargs, **fields}
    config.duration, config.eval_every = ("2 steps", "1 step") if quick else ("12 epochs",) * 2
    config.schedule.warmup = "10%"
    curves(config, name, "accuracy")
    run, pairs, found = build(config, devices=jax.devices()[:1]), [], []
    with sharding.use_mesh(run.mesh, config.sharding):
        lies = sharding.batch_sharding(run.mesh)
        for each in run.pipeline.eval_batches():
            batch = to_device(each, lies)
            labels = jnp.where(batch["mask"], batch["label"], -1)
            pairs.append(jax.device_get((run.objective.inputs(batch), labels)))
    for seed in SEEDS:
        trained = load_for_inference(folder() / name / f"seed_{seed}")
        model, variables = trained.model, jax.device_get(trained.variables)
        ablation = path_ablation(model, variables, pairs)
        paths = jax.jit(lambda v, x, own=model: own.apply(v, x, method="path_outputs"))
        total = np.asarray(paths(variables, pairs[0][0])).sum(0)[pairs[0][1] >= 0]
        found.append((ablation, _varying(total, model.prefix_tokens)))
    return found


def _percent(values) -> str:
    return ", ".join(f"{100 * value:.1f}%" for value in values)


@claim("digits-path-ablation", paper="vit-path-ensemble", by_hand=True)
def digits_path_ablation(quick):
    """Paths contribute unequally, some to no good, and scales of the ensemble help."""
    plain, scaled = _trained({}, quick), _trained(SCALED, quick)
    worth = np.stack([each.accuracy - each.without for each, _ in plain])  # [seed, path]
    mean, names = worth.mean(0), [f"{'FFN' if p % 2 else 'MSA'} {p // 2 + 1}" for p in range(8)]
    order = np.argsort(-mean)
    told = ", ".join(f"{names[p]} {100 * mean[p]:.1f}%" for p in order)
    accuracies = [[float(each.accuracy) for each, _ in runs] for runs in (plain, scaled)]
    shares = [[share for _, share in runs] for runs in (plain, scaled)]
    harmful = [int((row < 0).sum()) for row in worth]
    return [
        Finding(
            "accuracy lost without each of 8 paths in the last sum, 12 epochs, mean of seeds 0-2",
            "unequal",
            told,
            bool(mean.max() > 4 * max(np.median(mean), 1e-3)),
        ),
        Finding(
            "paths that lower accuracy, of each seed",
            "some",
            ", ".join(map(str, harmful)),
            min(harmful) > 0,
        ),
        Finding(
            "accuracy with a learned scale of each path's channels in the sum, and without",
            "higher",
            f"{_percent(accuracies[1])} against {_percent(accuracies[0])}",
            all(own > other for own, other in zip(accuracies[1], accuracies[0])),
        ),
        Finding(
            "energy of the sum's map beside its mean over the patches, with scales and without",
            "higher: a high-pass filter",
            f"{_percent(shares[1])} against {_percent(shares[0])}",
            all(own > other for own, other in zip(shares[1], shares[0])),
        ),
    ]
