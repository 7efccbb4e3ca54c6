"""The report's pictures: curves, a confusion matrix, samples. Each function returns a Figure."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

INK, FAINT, RULE = "#1f2933", "#7b8794", "#e4e7eb"
TRAIN, HELD_OUT, WRONG = "#9fb3c8", "#0b69a3", "#c62828"
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "figure.dpi": 160,
    "savefig.facecolor": "white",
}
# Above this many classes cells are too small for numbers, and above the second for a matrix.
NUMBERED_CLASSES, SHOWN_CLASSES = 20, 120
SAMPLE_COLUMNS = 10
# Letters of a class's name that have room beside an axis, and below an image, in two lines.
NAME, LINE = 32, 15

Row = Mapping[str, Any]


def curves(
    rows: Sequence[Row],
    *,
    is_language: bool = False,
    baselines: Mapping[str, float] | None = None,
    tokens: int = 0,
) -> Figure:
    """Loss, accuracy or bits per byte, learning rate and throughput over the run.

    Args:
      rows: of metrics.jsonl.
      is_language: whether the second panel shows bits per byte.
      baselines: figures of simple models, drawn as lines where bits per byte are.
      tokens: of an example of text, for throughput in tokens; 0 counts examples.
    """
    trained = [row for row in rows if row["split"] == "train"]
    train = _whole_windows(trained)
    held_out = [row for row in rows if row["split"] == "eval"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        loss, quality, rate, speed = figure.subplots(2, 2).ravel()
        unit = "nats per byte" if is_language else "nats"
        _both(loss, train, held_out, "loss", f"Loss, {unit}")
        if is_language:
            _both(quality, train, held_out, "bits_per_byte", "Bits per byte")
            for name, value in (baselines or {}).items():
                quality.axhline(value, color=INK, linewidth=1, linestyle=(0, (4, 3)))
                quality.annotate(
                    f"{name.split(',')[0]}: {value:.3f}", (0.99, value), (0, 4), color=INK,
                    xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
                )  # fmt: skip
        else:
            # Where a run has no accuracy of its own, an evaluator's.
            given = sorted(name for row in held_out for name in row if name.endswith("accuracy"))
            name = given[0] if given else "accuracy"
            title = name.replace("_", " ").capitalize()
            _both(quality, train, held_out, name, title, scale=100, suffix="%")
        _series(rate, train, "lr", INK)
        rate.set_title("Learning rate")
        rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        rate.set_ylim(bottom=0)
        _series(speed, train, "examples_per_second", INK, scale=tokens or 1)
        speed.set_title(f"Throughput, {'tokens' if tokens else 'examples'} per second")
        speed.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        speed.set_ylim(bottom=0)
        epochs = _epochs_per_step(train)
        for axes in (loss, quality, rate, speed):
            axes.margins(x=0)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            if epochs and axes in (rate, speed):
                last = trained[-1]["step"]
                axes.set_xlabel(f"step ({last:,} steps are {last * epochs:,.4g} epochs)")
    return figure


def sweep(
    runs: Mapping[str, Mapping[int, Sequence[Row]]],
    metrics: Sequence[str] = ("loss",),
    *,
    against_time: str = "",
) -> Figure:
    """Training loss and held-out metrics of several runs: means over seeds, lowest to highest.

    Args:
      runs: run's name -> seed -> rows of metrics.jsonl.
      metrics: of the held-out part.
      against_time: a metric of the held-out part that is drawn over time too; "" is none.
    """
    panels = [("train", "loss"), *(("eval", metric) for metric in metrics)]
    colours = matplotlib.colormaps["tab10"].colors
    count = len(panels) + bool(against_time)
    with matplotlib.rc_context(STYLE):
        lines = -(-count // 2)
        figure = Figure(figsize=(9.6, 3.2 * lines), layout="constrained")
        drawn = figure.subplots(lines, 2, squeeze=False).ravel()
        for axes in drawn[count:]:
            axes.set_visible(False)
        for axes, (split, metric) in zip(drawn, panels):
            for index, (name, by_seed) in enumerate(runs.items()):
                points = _by_step(by_seed, split, metric)
                steps = sorted(points)
                if not steps:
                    continue
                colour = colours[index % len(colours)]
                mean = [np.mean(points[step]) for step in steps]
                axes.plot(
                    steps, mean, color=colour, label=name, marker="o" if len(steps) < 3 else ""
                )
                low, high = ([f(points[step]) for step in steps] for f in (min, max))
                axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.set_title(f"{'Training' if split == 'train' else 'Held-out'} {metric}")
            axes.set_xlabel("step")
            axes.margins(x=0)
        if against_time:
            axes = drawn[count - 1]
            for index, (name, by_seed) in enumerate(runs.items()):
                points = _by_step(by_seed, "eval", against_time)
                times = _by_step({seed: _timed(rows) for seed, rows in by_seed.items()})
                steps, colour = sorted(points), colours[index % len(colours)]
                if not steps:
                    continue
                spent = [np.mean(times[step]) for step in steps]
                mean = [np.mean(points[step]) for step in steps]
                axes.plot(spent, mean, color=colour, label=name, linewidth=1.2)
                axes.plot(spent[-1:], mean[-1:], color=colour, marker="o", clip_on=False)
            axes.set_title(f"Held-out {against_time.replace('_', ' ')} against time")
            axes.set_xlabel("seconds")
        if len(runs) <= 12:
            drawn[0].legend(frameon=False, fontsize=7)
    return figure


def _by_step(
    by_seed: Mapping[int, Sequence[Row]], split: str = "eval", metric: str = "spent"
) -> dict[int, list[float]]:
    """Step -> values of the seeds that have the metric there."""
    points: dict[int, list[float]] = {}
    for rows in by_seed.values():
        for row in rows:
            if row["split"] == split and metric in row:
                points.setdefault(row["step"], []).append(row[metric])
    return points


def _timed(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows with the seconds since the first of them; a clock that was set back stands still."""
    steps = np.diff([row["time"] for row in rows], prepend=rows[0]["time"])
    return [{**row, "spent": s} for row, s in zip(rows, np.cumsum(np.maximum(steps, 0.0)))]


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Rows are the true class, columns the predicted one; mistakes stand out, not the diagonal.

    Args:
      matrix: [classes, classes] counts.
      names: of the classes.
    """
    classes = len(matrix)
    names = list(names) if len(names) == classes else [str(index) for index in range(classes)]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        if classes > SHOWN_CLASSES:
            return _most_confused(matrix, names)
        side = float(np.clip(1.6 + 0.42 * classes, 4.2, 9.6))
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        mistakes = np.where(np.eye(classes, dtype=bool), 0.0, share)
        # A quarter of a class in one wrong cell is as red as it gets; one image is still visible.
        strength = np.sqrt(np.clip(mistakes / 0.25, 0, 1))
        colours = np.ones((classes, classes, 3))
        red = np.array(matplotlib.colors.to_rgb(WRONG))
        blue = np.array(matplotlib.colors.to_rgb(HELD_OUT))
        colours -= strength[..., None] * (1 - red) * 0.85
        right = np.diag(share)
        colours[np.diag_indices(classes)] = 1 - (0.10 + 0.25 * right[:, None]) * (1 - blue)
        axes.imshow(colours, interpolation="nearest")
        if classes <= NUMBERED_CLASSES:
            for row, column in zip(*np.nonzero(matrix)):
                dark = row != column and strength[row, column] > 0.7
                axes.text(
                    column, row, f"{matrix[row, column]:,}", ha="center", va="center",
                    color="white" if dark else INK, fontsize=8.5,
                    fontweight="normal" if row == column else "bold",
                )  # fmt: skip
        every = max(1, classes // 40)
        ticks = np.arange(0, classes, every)
        long = max(map(len, names)) > 3
        names = [cut(name) for name in names]
        axes.set_xticks(ticks, [names[tick] for tick in ticks], rotation=90 if long else 0)
        axes.set_yticks(ticks, [names[tick] for tick in ticks])
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        for spine in axes.spines.values():
            spine.set_visible(False)
        edges = np.arange(classes + 1) - 0.5
        axes.set_xticks(edges, minor=True)
        axes.set_yticks(edges, minor=True)
        axes.tick_params(which="minor", length=0)
        axes.grid(which="minor", color="white" if classes > NUMBERED_CLASSES else RULE, lw=0.8)
        wrong = int(matrix.sum() - np.trace(matrix))
        axes.set_title(f"{wrong:,} of {int(matrix.sum()):,} held-out images are wrong", pad=10)
    return figure


def samples(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidences: np.ndarray,
    names: Sequence[str],
) -> Figure:
    """Held-out images: the surest mistakes, and of what is right the least and the most sure.

    Args:
      images: [B, Y, X, C] uint8.
      labels: [B] true classes.
      predictions: [B] predicted classes.
      confidences: [B] probabilities of the predictions.
      names: of the classes.
    """
    wrong = predictions != labels
    order = np.argsort(-confidences, kind="stable")
    right = order[~wrong[order]]
    unsure = right[::-1][:SAMPLE_COLUMNS]
    sections = {
        "Mistakes, the surest first": order[wrong[order]][: 2 * SAMPLE_COLUMNS],
        "Right, the least sure first": unsure,
        "Right, the surest first": right[: min(SAMPLE_COLUMNS, len(right) - len(unsure))],
    }
    sections = {title: shown for title, shown in sections.items() if len(shown)}

    def caption(index: int) -> str:
        lines = _lines(names, labels[index])
        if wrong[index]:
            lines += _lines(names, predictions[index], "seen as ")
        return "\n".join([*lines, f"{100 * confidences[index]:.0f}%"])

    rows = [-(-len(shown) // SAMPLE_COLUMNS) for shown in sections.values()]
    most = [max(caption(i).count("\n") for i in shown) for shown in sections.values()]
    heights = [0.25 + count * (0.98 + 0.14 * lines) for count, lines in zip(rows, most)]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9.6, sum(heights)), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.04)
        parts = np.ravel(figure.subfigures(len(sections), 1, height_ratios=heights))
        for part, count, (title, shown) in zip(parts, rows, sections.items()):
            part.suptitle(title, x=0.005, ha="left", color=INK, fontsize=10, fontweight="bold")
            places = part.subplots(count, SAMPLE_COLUMNS, squeeze=False).ravel()
            for axes in places:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
            for axes, index in zip(places, shown):
                axes.spines[:].set_visible(bool(wrong[index]))
                axes.spines[:].set(color=WRONG, linewidth=2.2)
                image = images[index]
                grey = image.shape[-1] == 1
                shades = {"cmap": "gray_r" if grey else None, "vmin": 0, "vmax": 255}
                axes.imshow(image[..., 0] if grey else image, **shades)
                colour = WRONG if wrong[index] else FAINT
                axes.set_xlabel(caption(index), color=colour, fontsize=7.5, labelpad=3)
    return figure


def cut(name: str) -> str:
    """A class's name at a length that leaves room for what it names."""
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def _lines(names: Sequence[str], index: int, before: str = "") -> list[str]:
    name = names[index] if index < len(names) else str(index)
    return textwrap.wrap(before + name, LINE, max_lines=2, placeholder="…")


def _series(axes, rows: Sequence[Row], name: str, colour: str, scale: float = 1.0, **line):
    points = [(row["step"], scale * row[name]) for row in rows if name in row]
    if points:
        axes.plot(*zip(*points), color=colour, **line)
    return points


def _both(axes, train, held_out, name: str, title: str, scale: float = 1.0, suffix: str = ""):
    """Training faint, held-out strong, its last point a dot and its best a ring, with figures."""
    axes.set_title(title)
    ours = _series(axes, train, name, TRAIN, scale, linewidth=1.4)
    theirs = _series(
        axes, held_out, name, HELD_OUT, scale, marker="o", markersize=2.5, clip_on=False
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{suffix}"))

    def figure(value):
        return f"{value:.1f}{suffix}" if suffix else f"{value:.3f}"

    mark = {"color": HELD_OUT, "linestyle": "", "clip_on": False, "zorder": 3}
    if ours:
        axes.plot([], [], color=TRAIN, linewidth=3, label=f"training, last {figure(ours[-1][1])}")
    if theirs:
        label = f"held out, last {figure(theirs[-1][1])}"
        axes.plot(*theirs[-1], marker="o", markersize=6, label=label, **mark)
    finite = [point for point in theirs if np.isfinite(point[1])]
    if len(finite) > 1:
        # Of equals the newest, as a checkpoint is kept.
        best = max(finite, key=lambda point: (point[1] if suffix else -point[1], point[0]))
        label = f"held out, best {figure(best[1])} at step {best[0]:,}"
        axes.plot(*best, marker="o", markersize=9, fillstyle="none", label=label, **mark)
    values = np.array([value for _, value in (*ours, *theirs) if np.isfinite(value)])
    if len(values) > 8 and not suffix:
        # The first steps of a loss would flatten all that follows.
        top = max(np.percentile(values, 97), max((value for _, value in theirs), default=0))
        low = values.min()
        axes.set_ylim(max(0, low - 0.08 * (top - low)), top + 0.08 * (top - low))
    if suffix:
        axes.set_ylim(top=102)
    if axes.get_legend_handles_labels()[0]:
        place = "lower right" if suffix else "upper right"
        axes.legend(frameon=False, loc=place, handlelength=1.2, labelcolor=INK)


def _whole_windows(train: Sequence[Row]) -> Sequence[Row]:
    """Leaves out a last row that averages few steps: its noise would look like an event."""
    if len(train) < 4:
        return train
    usual = train[-2]["step"] - train[-3]["step"]
    return train[:-1] if train[-1]["step"] - train[-2]["step"] < usual / 2 else train


def _epochs_per_step(train: Sequence[Row]) -> float:
    known = [row for row in train if row.get("epoch")]
    return known[-1]["epoch"] / known[-1]["step"] if known else 0.0


def _most_confused(matrix: np.ndarray, names: Sequence[str], count: int = 25) -> Figure:
    mistakes = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    pairs = [np.unravel_index(place, matrix.shape) for place in order if mistakes.flat[place]]
    figure = Figure(figsize=(9.6, 0.9 + 0.24 * max(1, len(pairs))), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(pairs))[::-1]
    axes.barh(places, [matrix[pair] for pair in pairs], color=WRONG, height=0.7)
    labels = [f"{cut(names[true])} seen as {cut(names[said])}" for true, said in pairs]
    axes.set_yticks(places, labels)
    axes.set_xlabel("held-out images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    wrong = int(mistakes.sum())
    axes.set_title(f"Most frequent of {wrong:,} mistakes among {int(matrix.sum()):,} images")
    return figure
