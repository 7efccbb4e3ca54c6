"""python -m scanmax.train.sweep --config=FILE --workdir=DIR [--run="optim.lr=1e-3 seed=5" ...]
        [--seeds=0,1,2] [--together] [--compile_cache=DIR] [--config.a.b=c ...]

Trains every --run (overrides of the config, in quotes) with every seed, or with its own where
--seeds names none, one workdir each, and writes sweep.html, sweep.json and sweep.png: a table of
how good and how costly each run is, and curves over seeds with their spread. Run again, it
continues where it stands. --together trains the seeds of a run in one compiled step.
"""

import html
import io
import json
import pathlib
import re
import shlex
import sys
import traceback
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from scanmax import cli
from scanmax.errors import UserError
from scanmax.files import write_whole
from scanmax.train.config import Config
from scanmax.train.programs import define_flag, keep_programs
from scanmax.train.remote import mirrored

# Columns of the table, where runs have them.
METRICS = ("loss", "accuracy", "bits_per_byte", "knn_accuracy", "probe_accuracy")
# Runs are ranked by the first of these that they have.
RANKED_BY = ("accuracy", "knn_accuracy", "probe_accuracy", "bits_per_byte", "loss")


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
    workdir = values["workdir"].value.rstrip("/")
    with mirrored(workdir) as folder:
        check_plan(plan, folder)
        keep_programs(values["compile_cache"].value)
        failures, ended = train_all(plan, folder, together=values["together"].value)
        found = {name: list(by_seed) for name, by_seed in plan.items()}
        table = write_sweep(folder, found, failures)
    print(table)
    print(f"report       {workdir}/sweep.html")
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
    from scanmax.train.build import build
    from scanmax.train.loop import train
    from scanmax.train.seeds import train_seeds

    failures: dict[str, str] = {}
    for name, by_seed in plan.items():
        folders = {seed: workdir / name / f"seed_{seed}" for seed in by_seed}
        like = None
        groups = [list(by_seed)] if together else [[seed] for seed in by_seed]
        for group in groups:
            label = f"{name}/seed_{'_'.join(map(str, group))}"
            print(f"=== {label}", file=sys.stderr, flush=True)
            try:
                if together:
                    train_seeds(by_seed[group[0]], folders)
                else:
                    config = by_seed[group[0]]
                    # Seeds after the first one compile nothing.
                    if len(by_seed) > 1 and like is None:
                        like = build(config)
                    if not train(config, folders[group[0]], like=like):
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


def costs_of(
    workdir: pathlib.Path, found: Mapping[str, Mapping[int, Sequence[dict[str, Any]]]]
) -> dict[str, dict[str, float]]:
    """Run's name -> its parameters, and medians over seeds of seconds and of its speed.

    What a run does not say is missing.
    """
    from scanmax.train.record import read_record, tokens_of
    from scanmax.train.report import examples_per_second, time_spent

    costs: dict[str, dict[str, float]] = {}
    for name, by_seed in found.items():
        own: dict[str, list[float]] = {}
        for seed, rows in by_seed.items():
            record = read_record(workdir / name / f"seed_{seed}")
            tokens, speed = tokens_of(record), examples_per_second(list(rows))
            own.setdefault("seconds", []).append(time_spent(list(rows)))
            if record:
                own.setdefault("parameters", []).append(record["parameters"])
            if speed:
                unit = "tokens_per_second" if tokens else "examples_per_second"
                own.setdefault(unit, []).append((tokens or 1) * speed)
        costs[name] = {key: float(np.median(values)) for key, values in own.items()}
    return costs


def ranking(table: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The metric that runs are ranked by, and their names, the best first; "" where none has one.

    >>> ranking({"a": {"loss": {"mean": 2.0}}, "b": {"loss": {"mean": 1.0}}, "c": {}})
    ('loss', ['b', 'a'])
    """
    for metric in RANKED_BY:
        means = {name: row[metric]["mean"] for name, row in table.items() if metric in row}
        if means:
            sign = -1 if metric.endswith("accuracy") else 1
            # A loss that is not finite is the worst.
            worth = {name: (not np.isfinite(mean), sign * mean) for name, mean in means.items()}
            return metric, sorted(means, key=worth.__getitem__)
    return "", []


def write_sweep(
    workdir: pathlib.Path, runs: Mapping[str, Sequence[int]], failures: Mapping[str, str]
) -> str:
    """Writes sweep.json, sweep.png and sweep.html of what has been trained; gives the table."""
    from scanmax.train import figures
    from scanmax.train.page import count, duration

    found = collect(workdir, runs)
    table, costs = summarise(found), costs_of(workdir, found)
    ranked_by, ranked = ranking(table)
    shown = [metric for metric in METRICS if any(metric in row for row in table.values())]
    speeds = ("examples_per_second", "tokens_per_second")
    speeds = [unit for unit in speeds if any(unit in cost for cost in costs.values())]
    header = ["rank", "run", "seeds", *shown, "parameters", "time", *speeds]
    cells = []
    for name in [*ranked, *(name for name in table if name not in ranked)]:
        row, cost = table[name], costs[name]
        seeds = max([len(entry["seeds"]) for entry in row.values()] + [0])
        cells.append([
            str(ranked.index(name) + 1) if name in ranked else "-",
            name,
            f"{seeds} of {len(runs[name])}",
            *(with_spread(row.get(metric)) for metric in shown),
            count(cost["parameters"]) if "parameters" in cost else "-",
            duration(cost["seconds"]) if "seconds" in cost else "-",
            *(f"{cost[unit]:,.0f}" if unit in cost else "-" for unit in speeds),
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(header, *cells)]
    lines = [
        "  ".join(
            # Names to the left, figures to the right.
            f"{text:<{width}}" if place == 1 else f"{text:>{width}}"
            for place, (text, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in (header, *cells)
    ]
    lines += [f"failed: {label}: {why}" for label, why in failures.items()]
    told = {"runs": table, "costs": costs, "ranked_by": ranked_by, "ranking": ranked}
    workdir.mkdir(parents=True, exist_ok=True)
    whole = json.dumps({**told, "failures": dict(failures)}, indent=1) + "\n"
    write_whole(workdir / "sweep.json", whole)
    picture = io.BytesIO()
    quality = [metric for metric in shown if metric != "bits_per_byte"]
    figures.sweep(found, quality, against_time=ranked_by).savefig(picture, format="png")
    write_whole(workdir / "sweep.png", picture.getvalue())
    links = {name: links_of(workdir, name, seeds) for name, seeds in runs.items()}
    whole = render(workdir, header, cells, links, failures, picture.getvalue(), ranked_by)
    write_whole(workdir / "sweep.html", whole)
    return "\n".join(lines)


def with_spread(entry: Mapping[str, Any] | None) -> str:
    """Mean and deviation over seeds; of one seed its value, which deviates from nothing.

    >>> with_spread({"mean": 0.5, "std": 0.0, "seeds": {0: 0.5}})
    '0.5000'
    """
    if entry is None:
        return "-"
    several = len(entry["seeds"]) > 1
    return f"{entry['mean']:.4f}" + (f" ± {entry['std']:.4f}" if several else "")


def links_of(workdir: pathlib.Path, name: str, seeds: Sequence[int]) -> str:
    """HTML of the seeds of a run, each a link to its report where it has one."""
    parts = []
    for seed in seeds:
        path = f"{name}/seed_{seed}/report.html"
        is_there = (workdir / path).is_file()
        parts.append(f'<a href="{urllib.parse.quote(path)}">{seed}</a>' if is_there else str(seed))
    return ", ".join(parts)


def render(
    workdir: pathlib.Path,
    header: Sequence[str],
    cells: Sequence[Sequence[str]],
    links: Mapping[str, str],
    failures: Mapping[str, str],
    picture: bytes,
    ranked_by: str,
) -> str:
    """The page of a sweep; each seed leads to the report of its run."""
    from scanmax.train import page

    def row(entries: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{text}</{kind}>" for text in entries) + "</tr>"

    rows = [row([name.replace("_", " ") for name in header], "th")]
    for rank, name, _, *figures in cells:
        escaped = [html.escape(text) for text in (rank, name, *figures)]
        rows.append(row([*escaped[:2], links[name], *escaped[2:]], "td"))
    told = "Held-out metrics at the end, of several seeds their mean and deviation"
    told += f"; ranked by {ranked_by.replace('_', ' ')}." if ranked_by else "."
    told += " Seeds lead to the reports of their runs."
    heading = workdir.resolve().name
    return page.page(
        heading,
        [
            f"<h1>{html.escape(heading)}</h1><p>{told}</p>",
            f"<table>{''.join(rows)}</table>",
            *(
                f"<p>{html.escape(label)} failed: {html.escape(why)}</p>"
                for label, why in failures.items()
            ),
            "<h2>Curves</h2>",
            page.picture(
                "Curves",
                picture,
                "Lines are means over seeds, bands reach from the lowest seed to the highest; "
                "held-out figures are exact over the whole part.",
            ),
        ],
    )


def run() -> None:
    """Entry of the console script scanmax-sweep."""
    cli.leave(cli.run_main(main))


if __name__ == "__main__":
    run()
