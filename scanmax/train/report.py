"""The report of a run: pictures as PNG and one HTML page that needs nothing beside it.

It reads what training wrote into the workdir: config.json, metrics.jsonl, predictions.npz for
images, sample.json for text. `python -m scanmax.train.report WORKDIR` writes it anew.
"""

import base64
import datetime
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
    is_language = any("bits_per_byte" in row for row in rows)
    if is_language:
        rows = [with_bits(row) for row in rows]
    pictures = {
        "curves": figures.curves(
            rows, is_language=is_language, baselines=sample.get("baselines", {})
        )
    }
    if predictions:
        names = [str(name) for name in predictions["class_names"]]
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
        encoded[name] = base64.b64encode(buffer.getvalue()).decode()
    page = render(workdir.resolve().name, rows, config, predictions, sample, encoded)
    path = workdir / "report.html"
    write_whole(path, page)
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
    rows: Rows, predictions: Mapping[str, np.ndarray], sample: Mapping[str, Any]
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
    # Summed over the steps forward: a clock that was set back counts as standing still.
    times = [row["time"] for row in rows]
    spent = sum(max(0.0, after - before) for before, after in itertools.pairwise(times))
    finished = datetime.datetime.fromtimestamp(rows[-1]["time"], datetime.UTC)
    tiles.append(("time", duration(spent), f"to {finished:%Y-%m-%d %H:%M} UTC"))
    speeds = [row["examples_per_second"] for row in train if "examples_per_second" in row]
    if speeds:
        waits = [row["data_wait"] for row in train if "data_wait" in row]
        remark = f"{100 * np.median(waits):.0f}% of it waiting for data" if waits else ""
        shares = [row["utilization"] for row in train if "utilization" in row]
        remark += f", {100 * np.median(shares):.0f}% of the peak" if shares else ""
        tiles.append(("examples per second", f"{np.median(speeds):,.0f}", remark))
    return tiles


def evaluator_metrics(held_out: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the accuracies that evaluators gave, such as "knn_accuracy"."""
    return sorted({name for row in held_out for name in row if name.endswith("_accuracy")})


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(134)
    '2 min 14 s'
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def config_rows(config: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(path, value, whether it differs from the default) of every field."""
    from scanmax.cli import to_dict

    defaults = flatten(to_dict(Config()))
    return [
        (path, json.dumps(value), path not in defaults or defaults[path] != value)
        for path, value in flatten(config).items()
    ]


CSS = """
:root { --ink: #1f2933; --faint: #616e7c; --rule: #e4e7eb; --blue: #0b69a3; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink);
  background: #fff; max-width: 1040px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 48px 0 12px; }
p, figcaption { color: var(--faint); margin: 4px 0 0; max-width: 70ch; }
figure { margin: 0; }
figcaption { font-size: 14px; }
img { max-width: 100%; height: auto; display: block; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 0 24px;
  margin: 28px 0 0; border-top: 2px solid var(--ink); }
.tile { padding: 12px 0; }
.tile b { display: block; font-size: 26px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile:first-child b { color: var(--blue); }
.tile span { color: var(--faint); font-size: 14px; }
pre { background: #f5f7fa; padding: 16px 20px; border-radius: 6px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; }
pre .prompt { color: var(--blue); font-weight: 600; }
table { border-collapse: collapse; font-size: 13px; margin-top: 8px; }
td { padding: 3px 32px 3px 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  font-family: ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
td:first-child { color: var(--faint); }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--faint); }
@media print { body { padding: 0; } details { display: none; } }
"""


def render(
    heading: str,
    rows: Rows,
    config: Mapping[str, Any],
    predictions: Mapping[str, np.ndarray],
    sample: Mapping[str, Any],
    pictures: Mapping[str, str],
) -> str:
    """The page; pictures are base64 of PNG."""
    parts = [f"<h1>{html.escape(heading)}</h1>", f"<p>{html.escape(subtitle(config))}</p>"]
    parts.append('<div class="tiles">')
    for name, value, remark in headline(rows, predictions, sample):
        parts.append(
            f'<div class="tile"><span>{html.escape(name)}</span><b>{html.escape(value)}</b>'
            f"<span>{html.escape(remark)}</span></div>"
        )
    parts.append("</div>")
    captions = {
        "curves": (
            "Curves",
            "Training figures are of augmented examples with dropout where the config has them, "
            "means since the point before; held-out figures are exact over the whole part.",
        ),
        "confusion": ("Confusion matrix", ""),
        "samples": (
            "Samples",
            "Held-out images: mistakes first, framed, the surest one leading; then what is right, "
            "the least sure first. The percentage is the model's probability of what it says.",
        ),
    }
    for name, picture in pictures.items():
        heading_text, caption = captions[name]
        parts.append(
            f"<h2>{heading_text}</h2><figure>"
            f'<img alt="{heading_text}" width="{picture_width(picture)}" '
            f'src="data:image/png;base64,{picture}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    if sample.get("text"):
        parts.append(
            "<h2>A sample</h2><p>The model goes on from the blue words, which are held out.</p>"
            f'<pre><span class="prompt">{html.escape(sample.get("prompt", ""))}</span>'
            f"{html.escape(sample['text'])}</pre>"
        )
    if config:
        table = config_rows(config)
        parts.append("<h2>Config</h2><p>What differs from the defaults.</p>")
        parts.append(table_of([row for row in table if row[2]]))
        parts.append(
            f"<details><summary>All {len(table)} fields</summary>{table_of(table)}</details>"
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(heading)}</title><style>{CSS}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def picture_width(picture: str) -> int:
    """Width on the page of a base64 PNG: its own at 100 pixels per inch of the figure."""
    header = base64.b64decode(picture[:64])
    return round(int.from_bytes(header[16:20], "big") * 100 / 160)


def table_of(rows: Sequence[tuple[str, str, bool]]) -> str:
    """An HTML table of paths and values."""
    body = "".join(
        f"<tr><td>{html.escape(path)}</td><td>{html.escape(value)}</td></tr>"
        for path, value, _ in rows
    )
    return f"<table>{body}</table>"


def main(argv: list[str]) -> int:
    """Writes the report of a workdir."""
    if len(argv) != 1:
        raise UserError("usage: python -m scanmax.train.report WORKDIR")
    print(write_report(argv[0]))
    return 0


def run() -> None:
    """Entry of the console script scanmax-report."""
    from scanmax.cli import run_main

    sys.exit(run_main(main))


if __name__ == "__main__":
    run()
