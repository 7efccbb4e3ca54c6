"""How good a classifier is on labelled images: sums over batches, divided once at the end."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

# Bins of probability, as in the paper that made the measure common (Guo and others, 2017).
BINS = 15
# Classes of a table: the worst of more.
LISTED = 20


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a classifier scored.

    Attributes:
      class_names: names of the C classes.
      confusion: [C, C] how often an image of a class (row) was taken for one (column).
      loss: mean cross-entropy, in nats.
      top5_accuracy: share whose class is among the five most probable ones.
      calibration_error: mean distance between the probability of what is said and how often that
        is right, over BINS bins of probability, weighted by their images.
      real_accuracy: share of the images with other labels whose most probable class is among them;
        None where none were given.
    """

    class_names: tuple[str, ...]
    confusion: np.ndarray
    loss: float
    top5_accuracy: float
    calibration_error: float
    real_accuracy: float | None = None

    @property
    def images(self) -> int:
        """How many were judged."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share whose class is the most probable one."""
        return float(np.trace(self.confusion) / self.images)

    def class_rows(self) -> list[dict[str, Any]]:
        """For each class that has images: how many, its accuracy, what it is mostly taken for."""
        rows = []
        for label, counts in enumerate(self.confusion):
            if not counts.sum():
                continue
            wrong = np.where(np.arange(len(counts)) == label, 0, counts)
            other = int(wrong.argmax())
            rows.append(
                {
                    "class": self.class_names[label],
                    "images": int(counts.sum()),
                    "accuracy": float(counts[label] / counts.sum()),
                    "taken_for": self.class_names[other] if wrong[other] else "",
                    "times": int(wrong[other]),
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        real = {} if self.real_accuracy is None else {"real_accuracy": self.real_accuracy}
        return {
            "images": self.images,
            "accuracy": self.accuracy,
            **real,
            "top5_accuracy": self.top5_accuracy,
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            "classes": self.class_rows(),
            "class_names": list(self.class_names),
            "confusion": self.confusion.tolist(),
        }

    def table(self) -> str:
        """Lines for a terminal."""
        figures = {"accuracy": self.accuracy}
        if self.real_accuracy is not None:
            figures["real_accuracy"] = self.real_accuracy
        if len(self.class_names) > 5:
            figures["top5_accuracy"] = self.top5_accuracy
        figures |= {"loss": self.loss, "calibration_error": self.calibration_error}
        lines = [f"{name:<18} {value:.4f}" for name, value in figures.items()]
        rows = self.class_rows()
        if len(rows) > LISTED:
            rows = sorted(rows, key=lambda row: row["accuracy"])[:LISTED]
            lines += ["", f"the {LISTED} hardest of {len(self.class_names)} classes"]
        width = max(len("class"), *(len(row["class"]) for row in rows))
        lines += ["", f"{'class':<{width}}  {'images':>7}  {'accuracy':>8}  mostly taken for"]
        for row in rows:
            mistake = f"{row['taken_for']} ({row['times']})" if row["times"] else ""
            told = (
                f"{row['class']:<{width}}  {row['images']:>7}  {row['accuracy']:>8.4f}  {mistake}"
            )
            lines.append(told.rstrip())
        return "\n".join(lines)


class Calibrated:
    """Adds up how sure a classifier is and how often it is right, in bins of equal width.

    Bin b of n holds what is in (b / n, (b + 1) / n], as the papers part them.

    Example:
      seen = Calibrated(); seen.add(probabilities.max(-1), answers == labels); seen.error()

    Reference: multimodal-kd-egocentric
    """

    def __init__(self, bins: int = BINS):
        self._bins = np.zeros((3, bins))

    def add(self, sure: np.ndarray, right: np.ndarray) -> None:
        """Adds the probability [B] of each answer, and whether it is right [B]."""
        count = self._bins.shape[1]
        sure = sure.astype(np.float64)
        places = np.clip(np.ceil(sure * count).astype(np.int64) - 1, 0, count - 1)
        for row, values in enumerate((np.ones_like(sure), sure, right)):
            np.add.at(self._bins[row], places, values)

    def error(self) -> float:
        """Expected calibration error of what was added: |sure - right| of a bin, by its share."""
        images, sure, right = self._bins
        return float(np.abs(sure - right).sum() / images.sum())


class Judge:
    """Adds up batches of probabilities and labels.

    Example:
      judge = Judge(("cat", "dog")); judge.add(probabilities, labels); judge.scores().accuracy
    """

    def __init__(self, class_names: tuple[str, ...]):
        self._names = class_names
        self._confusion = np.zeros((len(class_names),) * 2, np.int64)
        self._calibrated = Calibrated()
        self._loss, self._top5 = 0.0, 0
        self._real = np.zeros(2, np.int64)

    def add(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        real: Sequence[Sequence[int]] = (),
    ) -> None:
        """Judges [B, C] probabilities by [B] labels, and by `real` labels, several or none each."""
        rows = np.arange(len(labels))
        said = probabilities.argmax(axis=-1)
        np.add.at(self._confusion, (labels, said), 1)
        for label, others in zip(said, real):
            # An image without any is not judged.
            self._real += (int(label) in others, len(others) > 0)
        own = probabilities[rows, labels].astype(np.float64)
        self._loss -= float(np.log(np.maximum(own, np.finfo(np.float32).tiny)).sum())
        # Ties count for the label, as they do for the first of equals in argmax.
        above = (probabilities > probabilities[rows, labels][:, None]).sum(axis=-1)
        self._top5 += int((above < 5).sum())
        self._calibrated.add(probabilities[rows, said], said == labels)

    def scores(self) -> Scores:
        """What was added, divided."""
        images = int(self._confusion.sum())
        hit, judged = self._real
        return Scores(
            class_names=self._names,
            confusion=self._confusion,
            loss=self._loss / images,
            top5_accuracy=self._top5 / images,
            calibration_error=self._calibrated.error(),
            real_accuracy=float(hit / judged) if judged else None,
        )
