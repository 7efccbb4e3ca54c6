"""The report of a run: pictures as PNG and one HTML page that needs nothing beside it.

It reads what training wrote into the workdir: config.json, run.json, metrics.jsonl,
predictions.npz for images, sample.json for text.
`python -m scanmax.train.report WORKDIR` writes it anew.
"""

import html
import io
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scanmax.errors import UserError
from scanmax.files import write_whole
from scanmax.train.config import Config, flatten
from scanmax.train.log import rows_of
from scanmax.train.page import count, duration, fields_of, folded, moment, page, picture, table_of
from scanmax.train.record import read_record, tokens_of
from scanmax.train.remote import mirrored
from scanmax.train.scores import LISTED, Judge

Rows = list[dict[str, Any]]
# Arrays of predictions.npz with an entry for every held-out example.
PREDICTED = ("labels", "predictions", "probabilities")


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes report.html and report/*.png.

    Args:
      workdir: folder of a run; a run that is still going gives the report so far.

    Returns:
      The path of report.html.

    Raises:
      UserError: the folder holds no metrics.
    """
    from scanmax.train import figures
    from scanmax.train.workdir import read_config

    workdir = pathlib.Path(workdir)
    rows = read_rows(workdir / "metrics.jsonl")
    try:
        config = read_config(workdir)
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)
        config = {}
    last = rows[-1]["step"]
    found = read_sample(workdir / "sample.json")
    sample = of_step(last, workdir / "sample.json", found)
    # What they are held against is of the data, not of a step.
    sample = {"baselines": found.get("baselines", {}), **sample}
    predictions = read_predictions(workdir / "predictions.npz")
    predictions = of_step(last, workdir / "predictions.npz", predictions)
    record = read_record(workdir)
    is_language = any("bits_per_byte" in row for row in rows)
    if is_language:
        rows = [with_bits(row) for row in rows]
    pictures = {
        "curves": figures.curves(
            rows,
            is_language=is_language,
            baselines=sample.get("baselines", {}),
            tokens=tokens_of(record),
        )
    }
    if predictions:
        names = class_names(predictions)
        pictures["confusion"] = figures.confusion(predictions["confusion"], names)
        shown = predictions["shown"]
        pictures["samples"] = figures.samples(
            to_uint8(predictions["images"]),
            predictions["labels"][shown],
            predictions["predictions"][shown],
            predictions["probabilities"][shown].max(axis=-1),
            names,
        )
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    encoded = {}
    for name, figure in pictures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        write_whole(folder / f"{name}.png", buffer.getvalue())
        encoded[name] = buffer.getvalue()
    whole = render(workdir.resolve().name, rows, config, predictions, sample, encoded, record)
    path = workdir / "report.html"
    write_whole(path, whole)
    return path


def read_rows(path: pathlib.Path) -> Rows:
    """The rows of metrics.jsonl; half a last row, of a run that is going, is left out."""
    if not path.is_file():
        raise UserError(f"no metrics in {path.parent}: it is not the workdir of a run")
    rows = [row for _, row in rows_of(path)]
    if not rows:
        raise UserError(f"{path} holds no row yet")
    return rows


def read_sample(path: pathlib.Path) -> dict[str, Any]:
    """sample.json, {} where there is none or it is damaged."""
    try:
        found = json.loads(path.read_text()) if path.is_file() else {}
        is_well = isinstance(found, dict) and isinstance(found.get("baselines", {}), dict)
        is_well = is_well and all(isinstance(found.get(key, ""), str) for key in ("prompt", "text"))
    except ValueError:
        is_well = False
    return found if is_well else _damaged(path)


def read_predictions(path: pathlib.Path) -> dict[str, np.ndarray]:
    """predictions.npz, {} where there is none or it is damaged.

    "shown" are the examples whose images it holds.
    """
    if not path.is_file():
        return {}
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        arrays.setdefault("shown", np.arange(len(arrays["images"])))
        shown = [arrays[name][arrays["shown"]] for name in PREDICTED]
        if not {"confusion", "class_names"} <= set(arrays) or not all(map(len, shown)):
            return _damaged(path)
    # Whatever lies in the file, from the archive to its arrays.
    except Exception:
        return _damaged(path)
    return arrays


def _damaged(path: pathlib.Path) -> dict[str, Any]:
    told = "is damaged and left out; the run's command writes it again"
    print(f"warning: {path} {told}", file=sys.stderr)
    return {}


def of_step(step: int, path: pathlib.Path, found: dict[str, Any]) -> dict[str, Any]:
    """What was found, {} where it is of another step: a run that goes on leaves it behind."""
    if "step" in found and int(found["step"]) != step:
        print(f"{path} is of step {int(found['step'])}, not {step}: left out", file=sys.stderr)
        return {}
    return found


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images fit to be seen: uint8 as it is, normalised floats stretched per channel."""
    if images.dtype == np.uint8:
        return images
    low, high = images.min(axis=(0, 1, 2)), images.max(axis=(0, 1, 2))
    return np.round(255 * (images - low) / np.maximum(high - low, 1e-6)).astype(np.uint8)


def with_bits(row: Mapping[str, Any]) -> dict[str, Any]:
    """A language model's training loss, in nats, also as bits."""
    return {"bits_per_byte": row["loss"] / np.log(2), **row} if "loss" in row else dict(row)


def subtitle(config: Mapping[str, Any]) -> str:
    """What the run is, in a line: the model, what of it was changed, the data."""
    if not {"model", "data"} <= set(config):
        return ""
    changed = ", ".join(f"{name} {value}" for name, value in config["model"]["kwargs"].items())
    model = config["model"]["name"] + (f" with {changed}" if changed else "")
    return f"{model}, on {config['data']['name']}"


def headline(
    rows: Rows,
    predictions: Mapping[str, np.ndarray],
    sample: Mapping[str, Any],
    record: Mapping[str, Any],
) -> list[tuple[str, str, str]]:
    """The figures at the top: (name, value, remark)."""
    train = [row for row in rows if row["split"] == "train"]
    held_out = [row for row in rows if row["split"] == "eval"]
    tiles = []
    if held_out and "bits_per_byte" in held_out[-1]:
        remark = ", ".join(
            f"{name.split(',')[0]} {value:.3f}"
            for name, value in sample.get("baselines", {}).items()
        )
        tiles.append(("held-out bits per byte", f"{held_out[-1]['bits_per_byte']:.3f}", remark))
    elif held_out and "accuracy" in held_out[-1]:
        remark = ""
        if predictions:
            wrong = int((predictions["labels"] != predictions["predictions"]).sum())
            remark = f"{wrong:,} of {len(predictions['labels']):,} wrong"
        tiles.append(("held-out accuracy", f"{100 * held_out[-1]['accuracy']:.2f}%", remark))
    for name in evaluator_metrics(held_out[-1:]):
        value = f"{100 * held_out[-1][name]:.2f}%"
        tiles.append((f"held-out {name.replace('_', ' ')}", value, ""))
    if held_out and "loss" in held_out[-1]:
        losses = [row["loss"] for row in held_out if math.isfinite(row["loss"])]
        remark = f"lowest {min(losses):.3f}" if losses else ""
        tiles.append(("held-out loss", f"{held_out[-1]['loss']:.3f}", remark))
    last = train[-1] if train else rows[-1]
    epochs = f"{last['epoch']:,.4g} epochs" if "epoch" in last else ""
    tiles.append(("steps", f"{last['step']:,}", epochs))
    tiles.append(("time", duration(time_spent(rows)), f"to {moment(rows[-1]['time'])}"))
    speed = examples_per_second(rows)
    if speed:
        waits = [row["data_wait"] for row in train if "data_wait" in row]
        remark = f"{100 * np.median(waits):.0f}% of it waiting for data" if waits else ""
        shares = [row["utilization"] for row in train if "utilization" in row]
        remark += f", {100 * np.median(shares):.0f}% of the peak" if shares else ""
        tokens = tokens_of(record)
        unit = "tokens per second" if tokens else "examples per second"
        tiles.append((unit, f"{(tokens or 1) * speed:,.0f}", remark))
    if record:
        inputs = " x ".join(str(size) for size in record["input"])
        adds = record["multiply_adds"] / 1e9
        remark = f"{adds:.3g} GFLOPs, billions of multiply-adds, for an input of {inputs}"
        tiles.append(("parameters", count(record["parameters"]), remark))
    return tiles


def time_spent(rows: Rows) -> float:
    """Seconds, summed over the steps forward: a clock that was set back counts as standing."""
    times = [row["time"] for row in rows]
    return sum(max(0.0, after - before) for before, after in itertools.pairwise(times))


def examples_per_second(rows: Rows) -> float | None:
    """The median over the run; None of one too short to be timed."""
    speeds = [row["examples_per_second"] for row in rows if "examples_per_second" in row]
    return float(np.median(speeds)) if speeds else None


def evaluator_metrics(held_out: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the accuracies that evaluators gave, such as "knn_accuracy"."""
    return sorted({name for row in held_out for name in row if name.endswith("_accuracy")})


def config_rows(config: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(path, value, whether it differs from the default) of every field."""
    from scanmax.cli import to_dict

    defaults = flatten(to_dict(Config()))
    return [
        (path, json.dumps(value), path not in defaults or defaults[path] != value)
        for path, value in flatten(config).items()
    ]


def render(
    heading: str,
    rows: Rows,
    config: Mapping[str, Any],
    predictions: Mapping[str, np.ndarray],
    sample: Mapping[str, Any],
    pictures: Mapping[str, bytes],
    record: Mapping[str, Any],
) -> str:
    """The page; pictures are PNG."""
    parts = [f"<h1>{html.escape(heading)}</h1>", f"<p>{html.escape(subtitle(config))}</p>"]
    parts.append('<div class="tiles">')
    for name, value, remark in headline(rows, predictions, sample, record):
        parts.append(
            f'<div class="tile"><span>{html.escape(name)}</span><b>{html.escape(value)}</b>'
            f"<span>{html.escape(remark)}</span></div>"
        )
    parts.append("</div>")
    captions = {
        "curves": (
            "Curves",
            "Training figures are of augmented examples with dropout where the config has them, "
            "means since the point before; held-out figures are exact over the whole part. Dots "
            "are the last evaluation, rings the best.",
        ),
        "confusion": ("Confusion matrix", ""),
        "samples": ("Samples", "The percentage is the model's probability of what it says."),
    }
    for name, content in pictures.items():
        title, caption = captions[name]
        parts += [f"<h2>{title}</h2>", picture(title, content, caption)]
        if name == "confusion":
            parts += class_tables(predictions)
    if sample.get("text"):
        parts.append(
            "<h2>A sample</h2><p>The model goes on from the blue words, which are held out.</p>"
            f'<pre><span class="prompt">{html.escape(sample.get("prompt", ""))}</span>'
            f"{html.escape(sample['text'])}</pre>"
        )
    if record:
        parts += ["<h2>Run</h2>", fields_of(run_rows(record))]
        parts += data_parts(record.get("data") or {})
    if config:
        table = config_rows(config)
        parts.append("<h2>Config</h2><p>What differs from the defaults.</p>")
        parts.append(fields_of([row[:2] for row in table if row[2]]))
        every = fields_of([row[:2] for row in table])
        parts.append(folded(f"All {len(table)} fields", every))
    return page(heading, parts)


def class_tables(predictions: Mapping[str, np.ndarray]) -> list[str]:
    """How good each class is, the hardest first, and what is mistaken for what most often."""
    judge = Judge(class_names(predictions))
    judge.add(predictions["probabilities"], predictions["labels"])
    rows = sorted(judge.scores().class_rows(), key=lambda row: row["accuracy"])
    header = ("class", "images", "right", "mostly taken for")
    lines = [
        (
            row["class"],
            f"{row['images']:,}",
            f"{100 * row['accuracy']:.1f}%",
            f"{row['taken_for']} ({row['times']:,})" if row["times"] else "",
        )
        for row in rows
    ]
    parts = ["<h2>Classes</h2><p>The hardest first.</p>", table_of(header, lines[:LISTED])]
    if len(lines) > LISTED:
        parts.append(folded(f"All {len(lines)} classes", table_of(header, lines)))
    pairs = confused(predictions["confusion"], class_names(predictions))
    if pairs:
        header = ("class", "taken for", "times", "of its images")
        parts += ["<h2>Most frequent mistakes</h2>", table_of(header, pairs)]
    return parts


def class_names(predictions: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Names of all classes; numbers where the data have none."""
    names, classes = predictions["class_names"], len(predictions["confusion"])
    found = names if len(names) == classes else range(classes)
    return tuple(str(name) for name in found)


def confused(confusion: np.ndarray, names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """(class, what it was taken for, how often, which share of it) of the most frequent mistakes.

    >>> confused(np.array([[8, 2], [0, 10]]), ("cat", "dog"))
    [('cat', 'dog', '2', '20.0%')]
    """
    mistakes = np.where(np.eye(len(confusion), dtype=bool), 0, confusion)
    found = []
    for place in np.argsort(-mistakes, axis=None, kind="stable")[:LISTED]:
        true, said = np.unravel_index(place, mistakes.shape)
        times = mistakes[true, said]
        if times:
            share = f"{100 * times / confusion[true].sum():.1f}%"
            found.append((names[true], names[said], f"{times:,}", share))
    return found


def run_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run is and ran on, by name; of one that was continued, each part."""
    found = []
    for part in record["parts"]:
        where = f" from step {part['step']:,}" if len(record["parts"]) > 1 else ""
        found += [
            (f"command{where}", str(part.get("command", ""))),
            ("began", moment(part.get("time", 0.0))),
            ("on", str(part.get("devices", ""))),
        ]
        found += [(f"commit of {name}", value) for name, value in part.get("commits", {}).items()]
        versions = part.get("versions", {}).items()
        found.append(("versions", ", ".join(f"{name} {value}" for name, value in versions)))
    return found


def data_parts(data: Mapping[str, Any]) -> list[str]:
    """All that lies between a file and a logit; [] of a record from before it was told."""
    names = [str(name) for name in data.get("class_names") or ()]
    rows = [(name, in_words(value)) for name, value in (data.get("preprocessing") or {}).items()]
    tokenizer = (data.get("tokenizer") or {}).items()
    rows += [(f"tokenizer: {name}", in_words(value)) for name, value in tokenizer]
    if names:
        few = ", ".join(names) if len(names) <= LISTED else f"{len(names):,}"
        rows.append(("classes", few))
    if not rows:
        return []
    parts = ["<h2>From a file to the model</h2>", fields_of(rows)]
    if len(names) > LISTED:
        parts.append(folded(f"All {len(names)} names, in order", html.escape(", ".join(names))))
    return parts


def in_words(value: Any) -> str:
    """A number, a word or a list of numbers.

    >>> in_words([0.485, 1.0])
    '0.485, 1'
    """
    return ", ".join(f"{each:.6g}" for each in value) if isinstance(value, list) else str(value)


def main(argv: list[str]) -> int:
    """Writes the report of a workdir."""
    if len(argv) != 1:
        raise UserError("usage: python -m scanmax.train.report WORKDIR")
    with mirrored(argv[0]) as folder:
        path = write_report(folder)
    print(f"{argv[0].rstrip('/')}/{path.name}")
    return 0


def run() -> None:
    """Entry of the console script scanmax-report."""
    from scanmax.cli import run_main

    sys.exit(run_main(main))


if __name__ == "__main__":
    run()
