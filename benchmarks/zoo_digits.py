"""Every family's smallest image model on digits: `python -m benchmarks zoo-digits [FAMILY ...]`.

Models are made small by the rule of scanmax.models.shrink and trained by the config digits_zoo.
Each run that ends is kept in benchmarks/zoo_digits.json before the next one starts, and made no
second time until its fields or the recipe change: a command that was killed goes on where it was.
The page of it is docs/zoo.md, which names the families that are still to be measured too.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from scanmax import create_model, list_models, model_info
from scanmax.configs import digits_zoo
from scanmax.data.config import AugmentConfig
from scanmax.errors import UserError, suggest
from scanmax.models.analysis import soonest_traced
from scanmax.models.shrink import EXCEPTIONS, RULE, shrink
from scanmax.train.config import CheckpointConfig, Config, LogConfig

FOLDER = pathlib.Path(__file__).parent
RESULTS = FOLDER / "zoo_digits.json"
PAGE = FOLDER.parent / "docs" / "zoo.md"
CLASSES = 10
# What of a recipe makes the model.
MODEL = ("model", "fields", "image_size")
HEAD = """# The zoo on digits

The smallest model of every family of image models, made small by one rule and trained in one way on
scikit-learn's digits: 1438 images to learn from, 359 held out. A table to choose from by what a
family costs and how soon it learns, not a ranking: what a network does with a million photographs
it does not show here. `python -m benchmarks zoo-digits` measures what is missing, family by family,
and writes this page; `python -m scanmax.train --config=digits_zoo:NAME --workdir=DIR` is the same
run of any model by its name.
"""
TABLE = """
| family | smallest model | parameters | made small | pixels | held-out accuracy | seeds | CPU s |
| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |
"""


def smallest() -> dict[str, str]:
    """Family -> the name of its model of the fewest parameters, of those that tell images apart."""
    models: dict[str, list[str]] = {}
    for name in list_models():
        info = model_info(name)
        if info.input_kind == "image" and hasattr(create_model(name), "num_classes"):
            models.setdefault(info.family, []).append(name)
    return {
        family: min(names, key=lambda name: (model_info(name).params, name))
        for family, names in sorted(models.items())
    }


def config_of(name: str, seed: int) -> Config:
    """The run of a model: the config digits_zoo, evaluated and kept at its end alone."""
    return dataclasses.replace(
        digits_zoo.get_config(name),
        seed=seed,
        eval_every="",
        checkpoint=CheckpointConfig(metric="", keep_best=0),
        log=LogConfig(to=(), report=False),
    )


def recipe(name: str) -> dict[str, Any]:
    """What a kept figure belongs to: it is measured again where this has changed."""
    config = config_of(name, 0)
    augment, plain = map(dataclasses.asdict, (config.data.augment, AugmentConfig()))
    told = {
        "model": name,
        "fields": config.model.kwargs,
        "image_size": config.data.image_size,
        "augment": {key: value for key, value in augment.items() if value != plain[key]},
        "optimizer": [config.optim.name, config.optim.lr, config.optim.weight_decay],
        "second_moment": config.optim.b2,
        "average": config.ema.decay,
        "batch_size": config.batch_size,
        "duration": config.duration,
    }
    return json.loads(json.dumps(told, default=str))


def count(name: str) -> int:
    """Parameters of the shrunken model, which is traced and not made."""
    fields, size = shrink(name)
    model = soonest_traced(create_model(name, num_classes=CLASSES, **fields))
    image, key = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32), jax.random.key(0)
    rngs = {"params": key, "dropout": key}
    shapes = jax.eval_shape(functools.partial(model.init, train=True), rngs, image)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def train_once(config: Config, built: list[Any]) -> dict[str, float] | None:
    """Held-out accuracy, seconds, and those of all processors; None where a signal ended it.

    Args:
      config: the run's.
      built: a list of the run that seeds share, whose programs are compiled once; empty, it gets
        this one.
    """
    from scanmax.data.__main__ import prepare
    from scanmax.train.build import build
    from scanmax.train.loop import train

    prepare(config.data.name, config.data.data_dir)
    start, processors = time.perf_counter(), time.process_time()
    if not built:
        built.append(build(config))
    with tempfile.TemporaryDirectory() as workdir:
        held_out = train(config, workdir, like=built[0])
    if not held_out:
        return None
    return {
        "accuracy": held_out["accuracy"],
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(time.process_time() - processors, 1),
    }


def load() -> dict[str, dict[str, Any]]:
    """What is kept: family -> recipe, parameters and runs by seed."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(family: str, record: dict[str, Any], families: Iterable[str]) -> None:
    """Puts a family's record into the file at once, whole or not at all, and drops lost families.

    The file is read again: another process may have measured another family meanwhile.
    """
    kept = {name: other for name, other in (load() | {family: record}).items() if name in families}
    fresh = RESULTS.with_suffix(".new")
    fresh.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    fresh.replace(RESULTS)


def current(family: str, name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """The kept record of a family, or one without runs where its rule or recipe has changed."""
    record, wanted = results.get(family), recipe(name)
    if record is not None and record["recipe"] == wanted:
        return record
    is_same = record is not None and all(record["recipe"][key] == wanted[key] for key in MODEL)
    params = record["params"] if is_same else count(name)
    return {"recipe": wanted, "params": params, "runs": {}}


def measure(
    chosen: Sequence[str], *, seeds: Sequence[int], again: bool = False, quick: bool = False
) -> bool:
    """Measures what is missing of the chosen families, all without one; True when all is there.

    Args:
      chosen: families.
      seeds: of the runs.
      again: what is kept is measured again.
      quick: two steps of each, of which nothing is kept.

    Raises:
      UserError: an unknown family.
    """
    families = smallest()
    for family in chosen:
        if family not in families:
            raise UserError(f"no family of image models {family!r}; {suggest(family, families)}")
    for family in chosen or families:
        name = families[family]
        record = current(family, name, load())
        if again and not quick:
            record["runs"] = {
                key: run for key, run in record["runs"].items() if int(key) not in seeds
            }
        built: list[Any] = []
        for seed in seeds:
            if str(seed) in record["runs"] and not quick:
                continue
            config = config_of(name, seed)
            if quick:
                config.duration = "2 steps"
            print(f"{family}: {name}, {record['params']:,} parameters, seed {seed}", flush=True)
            run = train_once(config, built)
            if run is None:
                print("stopped by a signal; the same command goes on", file=sys.stderr)
                return False
            if not quick:
                record["runs"][str(seed)] = run
                save(family, record, families)
                write_page()
        if built:
            # Programs of a family are of no use to the next one.
            jax.clear_caches()
    if not quick:
        write_page()
    return True


def write_page() -> None:
    """Writes docs/zoo.md of what is kept; families without a run get their parameters counted."""
    families = smallest()
    for family, name in families.items():
        results = load()
        record = current(family, name, results)
        if record != results.get(family):
            save(family, record, families)
    PAGE.write_text(page(families, load()))


def print_list() -> None:
    """Names the families, their smallest models and the seeds that are measured."""
    results = load()
    for family, name in smallest().items():
        seeds = sorted(results.get(family, {}).get("runs", {}), key=int)
        print(f"{family:<18}{name:<34}{'seeds ' + ', '.join(seeds) if seeds else 'not measured'}")


def row(family: str, name: str, record: Mapping[str, Any]) -> str:
    """The line of a family."""
    info, runs = model_info(name), list(record["runs"].values())
    cells = [family, f"`{name}`", f"{info.params:,}", f"{record['params']:,}"]
    cells += [str(record["recipe"]["image_size"])]
    if runs:
        shares = [100 * run["accuracy"] for run in runs]
        mean, least, most = sum(shares) / len(shares), min(shares), max(shares)
        spread = f" ({least:.1f} to {most:.1f})" if len(shares) > 1 else ""
        # Of the seed that has compiled what the others share.
        cost = max(run["processor_seconds"] for run in runs)
        cells += [f"{mean:.1f} %{spread}", str(len(runs)), f"{cost:.0f}"]
    else:
        cells += ["not measured yet", "0", ""]
    return "| " + " | ".join(cells) + " |"


def page(families: Mapping[str, str], results: Mapping[str, Any]) -> str:
    """The page's text: the rule, its exceptions, a line for each family."""
    config = digits_zoo.get_config()
    optim, smoothing = config.optim, config.objective.label_smoothing
    measured = sum(bool(results[family]["runs"]) for family in families)
    lines = [HEAD, "## The rule", "", RULE, "Families of which it says something else:", ""]
    lines += [f"- {family}: {EXCEPTIONS[family][0]}." for family in sorted(EXCEPTIONS)]
    lines += [
        "",
        f"Trained for {config.duration} in batches of {config.batch_size} by {optim.name} at "
        f"{optim.lr:g} (second moments {optim.b2:g}), cosine, weight decay",
        f"{optim.weight_decay:g}, label smoothing {smoothing:g}, images moved a little "
        "(scanmax/configs/digits_zoo.py). Short: networks that learn",
        "slowly would gain from more, transformers most, whose weights start at a deviation of "
        "0.02 however narrow they are.",
        "",
        "## The table",
        "",
        f"{measured} of {len(families)} families are measured so far. Accuracy is the mean of the "
        "seeds, and the least and",
        "most of them; time that of all processors together for a run that compiles. Other seeds "
        "compile nothing.",
        TABLE.rstrip(),
    ]
    lines += [row(family, name, results[family]) for family, name in families.items()]
    return "\n".join(lines) + "\n"
