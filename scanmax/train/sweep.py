"""python -m scanmax.train.sweep --config=FILE --workdir=DIR [--run="optim.lr=1e-3 seed=5" ...]
        [--seeds=0,1,2] [--together] [--compile_cache=DIR] [--config.a.b=c ...]

Trains every --run (overrides of the config, in quotes) with every seed, or with its own where
--seeds names none, one workdir each, and writes sweep.html, sweep.json and sweep.png: a table, and
curves over seeds with their spread. Run again, it continues where it stands. --together trains the
seeds of a run in one compiled step.
"""

import base64
import html
import io
import json
import pathlib
import re
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from scanmax import cli
from scanmax.errors import UserError
from scanmax.train.config import Config
from scanmax.train.programs import define_flag, keep_programs

# Columns of the table, where runs have them.
METRICS = ("loss", "accuracy", "bits_per_byte", "knn_accuracy", "probe_accuracy")


def define_flags(values: flags.FlagValues) -> None:
    """The flags besides --config."""
    flags.DEFINE_string("workdir", None, "folder of the sweep", flag_values=values)
    flags.DEFINE_multi_string("run", [], "overrides of one run, in quotes", flag_values=values)
    flags.DEFINE_list("seeds", [], "seeds of every run, with commas", flag_values=values)
    flags.DEFINE_boolean(
        "together", False, "train a run's seeds in one compiled step", flag_values=values
    )
    define_flag(values)


def main(argv: list[str]) -> int:
    """Trains, then reports; 1 where a run failed."""
    if any(word.lstrip("-") in ("help", "h", "helpfull") for word in argv):
        print(__doc__)
        return 0
    config, values = cli.parse_flags(argv, define=define_flags)
    if not isinstance(config, Config):
        raise UserError(f"get_config returned {type(config).__name__}, not scanmax.train's Config")
    if not values["workdir"].value:
        raise UserError("--workdir=DIR is required")
    runs = [split_run(text) for text in values["run"].value] or [[]]
    plan = make_plan(config_words(argv), runs, parse_seeds(values["seeds"].value))
    workdir = pathlib.Path(values["workdir"].value)
    check_plan(plan, workdir)
    keep_programs(values["compile_cache"].value)
    failures, ended = train_all(plan, workdir, together=values["together"].value)
    found = {name: list(by_seed) for name, by_seed in plan.items()}
    table = write_sweep(workdir, found, failures)
    print(table)
    print(f"report       {workdir / 'sweep.html'}")
    if not ended:
        print("stopped by a signal; the same command continues", file=sys.stderr)
    return 1 if failures else 0


def split_run(text: str) -> list[str]:
    """The overrides of one --run."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--run={text!r}: {error}") from error


def parse_seeds(words: Sequence[str]) -> list[int]:
    """The seeds of --seeds; none is each run's own."""
    for word in words:
        if not (word.strip().isascii() and word.strip().isdigit()):
            raise UserError(f"--seeds={','.join(words)}: {word!r} is no seed; write 0,1,2")
    seeds = [int(word) for word in words]
    if len({*seeds}) < len(seeds):
        raise UserError(f"--seeds={','.join(words)} names a seed twice")
    return seeds


def config_words(argv: Sequence[str]) -> list[str]:
    """The words of a command line that make the config, in both spellings of a flag."""
    words: list[str] = []
    for index, word in enumerate(argv):
        if not re.match(r"-{1,2}(no)?config\b", word):
            continue
        words.append(word)
        follows = argv[index + 1] if index + 1 < len(argv) else ""
        if "=" not in word and follows and not re.match(r"-+[a-z]", follows):
            words.append(follows)
    return words


def make_plan(
    common: Sequence[str], runs: Sequence[Sequence[str]], seeds: Sequence[int] = ()
) -> dict[str, dict[int, Config]]:
    """Run's name -> seed -> config. Mistakes in an override are found here.

    Args:
      common: words of the command line that hold for all.
      runs: overrides of each run.
      seeds: seeds of every run; none is the one of its config.

    Raises:
      UserError: an override that the config does not take, two runs that are the same, or a seed
        given in two ways.
    """
    plan: dict[str, dict[int, Config]] = {}
    for overrides in runs:
        text = " ".join(overrides)
        words = [re.sub(r"^-*(config\.)?", "", word) for word in overrides]
        for word in words:
            if "=" not in word:
                raise UserError(f'--run="{text}": {word!r} is not FIELD=VALUE')
        name = re.sub(r"[^\w.=,+-]+", "_", ",".join(words)) or "default"
        if name in plan:
            raise UserError(f'--run="{text}" is given twice')
        if seeds and any(word.startswith("seed=") for word in words):
            raise UserError(f'--run="{text}" names a seed, and so does --seeds: leave one out')
        if seeds and any(re.match(r"-+config\.seed\b", word) for word in common):
            raise UserError("--config.seed names a seed, and so does --seeds: leave one out")
        flags_of = [*common, *(f"--config.{word}" for word in words)]
        own = seeds or [cli.parse_flags(flags_of)[0].seed]
        plan[name] = {
            seed: cli.parse_flags([*flags_of, f"--config.seed={seed}"])[0] for seed in own
        }
    return plan


def check_plan(plan: Mapping[str, Mapping[int, Config]], workdir: pathlib.Path) -> None:
    """Builds every run once, which computes nothing but shapes, and opens every workdir.

    Raises:
      UserError: a run that cannot be trained; all of them are named.
    """
    from scanmax.train.build import build
    from scanmax.train.workdir import open_workdir

    def open_all(name: str) -> None:
        for seed, config in plan[name].items():
            with open_workdir(workdir / name / f"seed_{seed}", config):
                pass

    # Seeds change nothing that a build could refuse.
    for attempt in (lambda name: build(next(iter(plan[name].values()))), open_all):
        mistakes = {}
        for name in plan:
            try:
                attempt(name)
            except UserError as error:
                mistakes[name] = str(error)
        if mistakes:
            told = "; ".join(f"{name}: {why}" for name, why in mistakes.items())
            raise UserError(f"{len(mistakes)} of {len(plan)} runs cannot be trained: {told}")


def train_all(
    plan: Mapping[str, Mapping[int, Config]], workdir: pathlib.Path, *, together: bool = False
) -> tuple[dict[str, str], bool]:
    """Trains everything; a run that fails, in whatever way, is told and the next one begins.

    Returns:
      ("run/seed_0" -> why it failed, whether nothing was stopped by a signal).
    """
    from scanmax.train.loop import train
    from scanmax.train.seeds import train_seeds

    failures: dict[str, str] = {}
    for name, by_seed in plan.items():
        folders = {seed: workdir / name / f"seed_{seed}" for seed in by_seed}
        groups = [list(by_seed)] if together else [[seed] for seed in by_seed]
        for group in groups:
            label = f"{name}/seed_{'_'.join(map(str, group))}"
            print(f"=== {label}", file=sys.stderr, flush=True)
            try:
                if together:
                    train_seeds(by_seed[group[0]], folders)
                elif not train(by_seed[group[0]], folders[group[0]]):
                    return failures, False
            except KeyboardInterrupt:
                return failures, False
            except Exception as error:
                failures[label] = " ".join(str(error).split())
                if not isinstance(error, UserError | OSError):
                    failures[label] = f"{type(error).__name__}: {failures[label]}"
                    traceback.print_exc()
                print(f"error: {failures[label]}", file=sys.stderr, flush=True)
    return failures, True


def collect(
    workdir: pathlib.Path, runs: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Run's name -> seed -> rows of its metrics, those that have begun."""
    from scanmax.train.report import read_rows

    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for name, seeds in runs.items():
        found[name] = {}
        for seed in seeds:
            path = workdir / name / f"seed_{seed}" / "metrics.jsonl"
            if path.is_file() and path.stat().st_size:
                found[name][seed] = read_rows(path)
    return found


def summarise(found: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Run's name -> metric -> mean, deviation (of the sample) and values of the last evaluation."""
    table: dict[str, Any] = {}
    for name, by_seed in found.items():
        last = {}
        for seed, rows in by_seed.items():
            held_out = [row for row in rows if row["split"] == "eval"]
            if held_out:
                last[seed] = held_out[-1]
        table[name] = {}
        for metric in METRICS:
            values = {seed: row[metric] for seed, row in last.items() if metric in row}
            if values:
                numbers = np.asarray(list(values.values()))
                spread = float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
                table[name][metric] = {
                    "mean": float(numbers.mean()),
                    "std": spread,
                    "seeds": values,
                }
    return table


def write_sweep(
    workdir: pathlib.Path, runs: Mapping[str, Sequence[int]], failures: Mapping[str, str]
) -> str:
    """Writes sweep.json, sweep.png and sweep.html of what has been trained; gives the table."""
    from scanmax.train import figures

    found = collect(workdir, runs)
    table = summarise(found)
    shown = [metric for metric in METRICS if any(metric in row for row in table.values())]
    widest = max([len(name) for name in table] + [3])
    lines = [f"{'run':<{widest}}  seeds" + "".join(f"{metric:>20}" for metric in shown)]
    cells = []
    for name, row in table.items():
        texts = [
            f"{row[metric]['mean']:.4f} ± {row[metric]['std']:.4f}" if metric in row else "-"
            for metric in shown
        ]
        count = max([len(entry["seeds"]) for entry in row.values()] + [0])
        cells.append([name, f"{count} of {len(runs[name])}", *texts])
        lines.append(f"{name:<{widest}}  {count:>5}" + "".join(f"{text:>20}" for text in texts))
    lines += [f"failed: {label}: {why}" for label, why in failures.items()]
    told = {"runs": table, "failures": dict(failures)}
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "sweep.json").write_text(json.dumps(told, indent=1) + "\n")
    picture = io.BytesIO()
    figures.sweep(found, [metric for metric in shown if metric != "bits_per_byte"]).savefig(
        picture, format="png"
    )
    (workdir / "sweep.png").write_bytes(picture.getvalue())
    page = render(workdir.resolve().name, ["run", "seeds", *shown], cells, failures, picture)
    (workdir / "sweep.html").write_text(page)
    return "\n".join(lines)


def render(
    heading: str,
    header: Sequence[str],
    cells: Sequence[Sequence[str]],
    failures: Mapping[str, str],
    picture: io.BytesIO,
) -> str:
    """One page that needs nothing beside it; each run's name leads to its own report."""
    from scanmax.train.report import CSS

    def row(entries: Sequence[str], kind: str) -> str:
        return (
            "<tr>" + "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in entries) + "</tr>"
        )

    encoded = base64.b64encode(picture.getvalue()).decode()
    failed = "".join(
        f"<p>{html.escape(label)} failed: {html.escape(why)}</p>" for label, why in failures.items()
    )
    title = html.escape(heading)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{CSS} th {{ text-align: left; padding-right: 32px; }}</style></head>\n<body>"
        f"<h1>{title}</h1><p>Held-out metrics at the end: mean and deviation over seeds.</p>"
        f"<table>{row(header, 'th')}{''.join(row(entries, 'td') for entries in cells)}</table>"
        f"{failed}<h2>Curves</h2><figure><img alt='Curves' src='data:image/png;base64,{encoded}'>"
        "<figcaption>Lines are means over seeds, bands reach from the lowest seed to the highest; "
        "held-out figures are exact over the whole part.</figcaption></figure></body></html>\n"
    )


def run() -> None:
    """Entry of the console script scanmax-sweep."""
    cli.leave(cli.run_main(main))


if __name__ == "__main__":
    run()
