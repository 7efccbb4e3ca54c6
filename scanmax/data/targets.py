"""What a batch asks a model for must be among what the model can answer."""

from collections.abc import Mapping

import numpy as np

from scanmax.errors import UserError

TRAINING, HELD_OUT = "the training part", "the held-out part"


def check_targets(
    batch: Mapping[str, np.ndarray], kind: str, classes: int, where: str, whose: str = "model"
) -> None:
    """Looks through a batch's labels, tokens or targets; rows that the mask drops do not count.

    Args:
      batch: arrays of a batch.
      kind: "image", "image_text", "tokens", "labelled_tokens", "labelled_text" or "series".
      classes: classes, or the size of the vocabulary.
      where: the part of the data, as a message names it.
      whose: to whom the classes belong, as a message names it.

    Raises:
      UserError: a value outside them; names it.
    """
    keep = np.asarray(batch["mask"], bool) if "mask" in batch else slice(None)
    if kind in ("image", "labelled_text") and "label" in batch:
        labels = np.asarray(batch["label"])
        if not np.issubdtype(labels.dtype, np.integer):
            return
        labels = labels[keep]
        if labels.size and labels.max() == labels.min() == -1:
            raise UserError(
                f"{where} holds label -1: it is unlabelled; choose another split of the data, "
                "config.data.train_split or eval_split"
            )
        _check(labels, 0, classes, "label", f"{whose}'s {classes} classes", where)
    elif kind in ("tokens", "labelled_tokens", "image_text"):
        vocabulary = f"{whose}'s vocabulary of {classes}"
        _check(np.asarray(batch["tokens"])[keep], 0, classes, "token", vocabulary, where)
        if kind == "labelled_tokens":
            # -1 asks nothing.
            _check(np.asarray(batch["targets"])[keep], -1, classes, "target", vocabulary, where)


def _check(
    values: np.ndarray, lowest: int, classes: int, what: str, limit: str, where: str
) -> None:
    if not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < lowest or high >= classes:
        bad = low if low < lowest else high
        raise UserError(f"{where} holds {what} {bad}, outside the {limit} (0 to {classes - 1})")
