"""What a run reads, as a picture and in a terminal: rows of a training batch as they are learned.

A row is that of the whole batch at its step, whatever is shown of it: the same example with the
same random changes.
"""

import dataclasses
import pathlib
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from scanmax.data.config import DataConfig
from scanmax.data.pipeline import WITH_IMAGES, Pipeline, load
from scanmax.errors import UserError

COLUMNS = 8
# Sides of an image in a terminal, in characters.
TILE = 24
LINE = 100
# Classes that a title names of a mixed label.
NAMED = 3


@dataclasses.dataclass(frozen=True)
class Shown:
    """The first rows of a batch, and whose they are."""

    pipeline: Pipeline
    batch: dict[str, np.ndarray]
    step: int

    @property
    def rows(self) -> int:
        return len(self.batch["mask"])

    def views(self, row: int) -> Iterator[np.ndarray]:
        """uint8 [Y, X, C] of every view of a row, the small ones last."""
        for name in ("image", "local_image"):
            if name in self.batch:
                views = self.batch[name][row]
                views = views if views.ndim == 4 else views[None]
                yield from self.pipeline.to_display(views)

    def title(self, row: int) -> str:
        """What is said of an image: its caption, its class, or the shares of those mixed."""
        if "tokens" in self.batch:
            return self.pipeline.decode(self.batch["tokens"][row])
        label, names = self.batch["label"][row], self.pipeline.class_names
        if np.ndim(label) == 0:
            if label < 0:
                return ""
            return names[label] if names else str(label)
        best = np.argsort(label, kind="stable")[::-1][:NAMED]
        named = [(names[place] if names else str(place), label[place]) for place in best]
        return ", ".join(f"{name} {share:.2f}" for name, share in named if share > 0.005)

    def text(self, row: int) -> str:
        """A row of tokens, of a task or of a series, for people."""
        if self.pipeline.kind == "tokens":
            tokens = self.batch["tokens"][row]
            return "\n".join(
                f"[{segment}] {self.pipeline.to_display(part)!r}"
                for segment, part in self.segments(row, tokens)
            )
        lines = []
        for name, values in self.batch.items():
            if name != "mask":
                numbers = np.asarray(values[row]).reshape(-1).tolist()
                # -1 asks nothing.
                is_blank = [name == "targets" and number == -1 for number in numbers]
                words = ("." if none else f"{n:.4g}" for none, n in zip(is_blank, numbers))
                lines.append(f"{name:<8}{' '.join(words)}")
        return "\n".join(lines)

    def segments(self, row: int, tokens: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The documents of a row: number and tokens. The last token is of what comes before it."""
        ids = self.batch.get("segment_ids")
        ids = np.zeros(len(tokens), np.int32) if ids is None else np.append(ids[row], ids[row][-1])
        for segment in range(ids.max() + 1):
            yield segment, tokens[ids == segment]


def first_rows(data: DataConfig, *, seed: int, batch_size: int, step: int, rows: int) -> Shown:
    """Reads rows of a training batch; at least so many, where the batch has them.

    Args:
      data: what to read.
      seed: of the run.
      batch_size: of the run.
      step: whose batch.
      rows: how many.
    """
    rows = min(rows, batch_size)
    # The rows of one process of many are made without the others.
    parts = next(
        parts
        for parts in range(batch_size // rows, 0, -1)
        if batch_size % parts == 0 and (batch_size // parts % 2 == 0 or parts == 1)
    )
    pipeline = load(
        dataclasses.replace(data, workers=0, threads=1),
        seed=seed,
        batch_size=batch_size,
        process_count=parts,
    )
    batches = pipeline.train_iterator(step)
    batch = next(batches)
    batches.close()
    return Shown(pipeline, {name: values[:rows] for name, values in batch.items()}, step)


def describe(shown: Shown, name: str) -> str:
    """A line: of what data, how many rows, which arrays of which shapes."""
    whole = shown.pipeline.train_spec["mask"].shape[0]
    arrays = ", ".join(
        f"{key} {list(values.shape[1:])}" for key, values in shown.batch.items() if key != "mask"
    )
    return f"batch {shown.step} of {name!r}: {shown.rows} of {whole} rows, {arrays}"


def draw(shown: Shown, out: str) -> None:
    """Writes the rows as a PNG.

    Raises:
      UserError: a file of another kind.
    """
    from matplotlib.figure import Figure

    if pathlib.Path(out).suffix.lower() != ".png":
        raise UserError(f"--out={out!r} is not a .png")
    figure = Figure()
    if shown.pipeline.kind in WITH_IMAGES:
        draw_images(figure, shown)
    elif shown.pipeline.kind == "series":
        draw_series(figure, shown)
    else:
        draw_text(figure, shown)
    figure.savefig(out, dpi=100)


def draw_images(figure: Any, shown: Shown) -> None:
    """A cell for each image; the views of one stand side by side."""
    views = len(list(shown.views(0)))
    columns = views if views > 1 else min(COLUMNS, shown.rows)
    cells = [(row, image, number) for row in range(shown.rows) for number, image in
             enumerate(shown.views(row))]  # fmt: skip
    lines = -(-len(cells) // columns)
    figure.set_size_inches(1.6 * columns, 1.85 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (row, image, number) in zip(grid.flat, cells):
        is_grey = image.shape[-1] not in (3, 4)
        shape = {"cmap": "gray", "vmin": 0, "vmax": 255} if is_grey else {}
        axes.imshow(image[..., 0] if is_grey else image, interpolation="nearest", **shape)
        if number == 0:
            title = textwrap.shorten(shown.title(row), 44, placeholder="...")
            axes.set_title(textwrap.fill(title, 22), fontsize=7, parse_math=False)
    figure.tight_layout()


def draw_series(figure: Any, shown: Shown) -> None:
    """A plot of each row's series over its steps."""
    figure.set_size_inches(8, 1.2 * shown.rows)
    for row, axes in enumerate(figure.subplots(shown.rows, 1, squeeze=False)[:, 0]):
        axes.plot(shown.batch["series"][row], linewidth=0.8)
        axes.set_title(f"target {shown.batch['target'][row]:.4g}", fontsize=7)
        axes.tick_params(labelsize=6)
    figure.tight_layout()


def draw_text(figure: Any, shown: Shown) -> None:
    """The rows in letters."""
    lines = to_lines(shown)
    figure.set_size_inches(LINE * 0.075 + 0.4, 0.16 * len(lines) + 0.4)
    figure.text(
        0.02, 0.98, "\n".join(lines), va="top", family="monospace", fontsize=8, parse_math=False
    )  # fmt: skip


def to_lines(shown: Shown, width: int = LINE) -> list[str]:
    """The rows in lines of so many letters."""
    lines = []
    for row in range(shown.rows):
        lines.append(f"row {row}")
        for line in shown.text(row).splitlines():
            lines += textwrap.wrap(
                line, width - 2, initial_indent="  ", subsequent_indent="  ", drop_whitespace=False
            )  # fmt: skip
    return lines


def to_blocks(shown: Shown, columns: int = 0) -> str:
    """The images in half blocks of 24-bit colour, two pixels in a character.

    Args:
      shown: images.
      columns: of the terminal; 0 asks it.
    """
    columns = columns or shutil.get_terminal_size().columns
    side = min(TILE, columns)
    across = max(1, (columns + 1) // (side + 1))
    cells = [(shown.title(row), image) for row in range(shown.rows) for image in shown.views(row)]
    lines = []
    for start in range(0, len(cells), across):
        some = cells[start : start + across]
        tiles = [as_tile(image, side) for _, image in some]
        lines.append(" ".join(title[:side].ljust(side) for title, _ in some).rstrip())
        for y in range(0, tiles[0].shape[0], 2):
            lines.append(" ".join(block_line(tile[y], tile[y + 1]) for tile in tiles))
    return "\n".join(lines)


def as_tile(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side or side + 1, side, 3], an even number of lines, of an image of any shape."""
    colour = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
    # What shrinks is averaged, what grows keeps its pixels.
    method = Image.Resampling.BOX if max(image.shape[:2]) > side else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(colour).resize((side, side + side % 2), method))


def block_line(upper: np.ndarray, lower: np.ndarray) -> str:
    """Two lines of pixels, [X, 3] each, as one of characters."""
    pairs = zip(upper.tolist(), lower.tolist())
    return "".join(
        "\x1b[38;2;{};{};{};48;2;{};{};{}m\u2580".format(*above, *below) for above, below in pairs
    ) + "\x1b[0m"  # fmt: skip
