"""What teachers are worth on a tenth of the digits, and what learned mixing does; three seeds.

One teacher is trained for all claims of a process. Every figure stands twice, of the last epoch and
of the best, since which was meant is what numbers of distillation leave out.
"""

import atexit
import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.claims import Finding, claim
from benchmarks.claims.together import compared
from scanmax.configs import digits_distill, digits_mixing, digits_vit
from scanmax.train.config import Config, LogConfig

SEEDS = (0, 1, 2)
# Shorter than the configs' own, so that all of them take minutes.
TEACHER, DISTILLED = "40 epochs", "100 epochs"

# Of the terms of digits_distill those that are measured.
TAUGHT = {
    "topkld": ("topkld-bit-scaling", "the likeliest classes and the others, each its own way"),
    "deviation_aware": ("db-llm", "the teacher's answer, more where either is unsure"),
    "cskd": ("cskd", "what the teacher says of each place, later of the image"),
}


@functools.cache
def folder() -> pathlib.Path:
    """Where runs lie while the process lives."""
    kept = tempfile.TemporaryDirectory(prefix="scanmax-claims-")
    atexit.register(kept.cleanup)
    return pathlib.Path(kept.name)


def curves(
    config: Config, name: str, metric: str, model: Any = None
) -> tuple[list[int], list[list[float]]]:
    """The steps of the evaluations, and the metric of each seed at each.

    Args:
      config: the run's; its seeds are trained in one compiled step.
      name: of its folder.
      metric: that evaluations give.
      model: in the place of the config's.
    """
    from scanmax.data.__main__ import prepare
    from scanmax.train.report import read_rows
    from scanmax.train.seeds import train_seeds

    if config.data.name == "digits":
        prepare("digits", config.data.data_dir)
    config.log = LogConfig(to=(), report=False)
    config.checkpoint.keep, config.checkpoint.keep_best = 1, 0
    folders = {seed: folder() / name / f"seed_{seed}" for seed in SEEDS}
    train_seeds(config, folders, model=model)
    steps, values = [], []
    for workdir in folders.values():
        rows = [row for row in read_rows(workdir / "metrics.jsonl") if row["split"] == "eval"]
        rows = [row for row in rows if metric in row]
        steps = [row["step"] for row in rows]
        values.append([row[metric] for row in rows])
    return steps, values


def best_and_last(
    config: Config, name: str, metric: str = "accuracy", model: Any = None
) -> dict[str, list[float]]:
    """The metric of each seed, at the last evaluation and at the best; arguments as of `curves`."""
    _, values = curves(config, name, metric, model)
    return {"last": [seed[-1] for seed in values], "best": [max(seed) for seed in values]}


@functools.cache
def teacher() -> str:
    """The workdir of the ViT that has seen all digits."""
    from scanmax.data.__main__ import prepare
    from scanmax.train.loop import train

    config = digits_vit.get_config()
    prepare("digits", config.data.data_dir)
    config.log, config.duration = LogConfig(to=(), report=False), TEACHER
    workdir = folder() / "teacher"
    train(config, workdir)
    return str(workdir)


@functools.cache
def distilled(kind: str) -> Mapping[str, list[float]]:
    """Students of a kind of digits_distill."""
    config = digits_distill.get_config(kind)
    for _, options in config.objective.teachers:
        options["weights"] = teacher()
    config.duration, config.eval_every, config.log_every = DISTILLED, "10 epochs", "100 epochs"
    return best_and_last(config, f"distil-{kind}")


def mean(values: list[float]) -> float:
    """Over the seeds."""
    return sum(values) / len(values)


def register(name: str, paper: str, statement: str, run: Callable[[], list[Finding]]) -> None:
    """A claim whose first line is made here."""

    def measured(quick: bool) -> list[Finding]:
        return run()

    measured.__doc__ = statement
    claim(name, paper=paper, by_hand=True)(measured)


def of_terms(kind: str) -> list[Finding]:
    """A student's accuracy against those of labels alone and of plain distillation."""
    others = {"labels alone": distilled("none"), "plain distillation": distilled("kd")}
    what = "held-out digits, a tenth to learn from"
    return compared(what, f"`{kind}`", distilled(kind), others)


for _kind, (_paper, _what) in TAUGHT.items():
    register(
        f"digits-{_kind.replace('_', '-')}",
        _paper,
        f"Taught by {_what}, a student beats labels alone, and plain distillation.",
        functools.partial(of_terms, _kind),
    )


@claim("digits-adautomix-misleads", paper="adautomix", by_hand=True)
def digits_adautomix_misleads(quick):
    """Masks that mislead make mixtures that are harder than mixup's of the same shares."""
    import jax

    from scanmax.data.__main__ import prepare
    from scanmax.train import sharding
    from scanmax.train.build import build
    from scanmax.train.feed import to_device

    config = digits_mixing.get_config("none")
    prepare("digits", config.data.data_dir)
    config.model.kwargs = {**config.model.kwargs, "dim": 32, "depth": 2}
    own = {"tap": "block_00/output", "momentum": 0.9, "keeps_meaning": True}
    config.objective.name, config.objective.kwargs = "adautomix", own
    config.duration = "20 epochs"
    # Each of its own draws and batches, by the step that is compiled once.
    runs = [
        build(dataclasses.replace(config, seed=seed), devices=jax.devices()[:1]) for seed in SEEDS
    ]
    run, rngs = runs[0], {name: jax.random.key(7) for name in ("objective", "dropout")}
    total = 2 if quick else run.durations.total

    @functools.partial(jax.jit, static_argnums=0)
    def sums(margin, variables, batch):
        """The loss of mixtures, and how many; at a margin of a half all are even."""
        own = run.objective.clone(margin=margin)
        found, _ = own.apply(variables, batch, True, rngs=rngs, mutable=["intermediates"])
        return (found.values["mixed"] * batch["mask"]).sum(), batch["mask"].sum()

    harder: dict[float, list[float]] = {0.0: [], 0.5: []}
    with sharding.use_mesh(run.mesh, config.sharding):
        lies = sharding.batch_sharding(run.mesh)
        for other in runs:
            state, batches = other.init(None), other.pipeline.train_iterator(0)
            for _ in range(total):
                state, _ = run.train_step(state, to_device(next(batches), lies), ())
            variables = run.recipe.variables(state.params, state.carried)
            for margin, values in harder.items():
                held_out = [to_device(each, lies) for each in run.pipeline.eval_batches()]
                found = [sums(margin, variables, batch) for batch in held_out]
                values.append(float(sum(x for x, _ in found) / sum(n for _, n in found)))
    misleading, even = harder[0.0], harder[0.5]
    return [
        Finding(
            "cross-entropy of held-out digits mixed by three, last of 20 epochs, seeds 0 to 2, "
            "momentum 0.9, cosines raised",
            "above that of even mixtures of the same shares",
            f"{mean(misleading):.3f} against {mean(even):.3f}",
            all(own > other for own, other in zip(misleading, even)),
        )
    ]
