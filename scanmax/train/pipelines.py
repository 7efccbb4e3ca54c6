"""What the trainer asks of data, and what it refuses of them before the first batch."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

from scanmax.data.config import DataConfig
from scanmax.data.targets import HELD_OUT
from scanmax.errors import UserError
from scanmax.train.config import Config
from scanmax.train.plugs import checked_pairs


class Pipeline(Protocol):
    """What the trainer asks of data; scanmax.data.load returns one.

    `normalisation`, where there is one, is the mean and deviation of images in [0, 1];
    `num_classes` is the size of the vocabulary where `kind` is "tokens" or "labelled_tokens";
    "labelled_text" has a `vocab_size` besides, and "image_text" that, the `text_length` of its
    tokens and `class_tokens`, captions of each class or None.

    Where there is a `finish`, the compiled step calls it with each training batch, and `as_sent` of
    what `train_iterator` returns yields batches of `sent_spec`; of any other iterator batches are
    finished, and `finish` leaves them as they are.
    """

    kind: str
    num_train: int
    num_eval: int
    num_classes: int
    class_names: tuple[str, ...]
    train_spec: Mapping[str, jax.ShapeDtypeStruct]
    eval_spec: Mapping[str, jax.ShapeDtypeStruct]

    def train_iterator(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of batch start_step, start_step + 1, ... without end."""

    def eval_batches(self) -> Iterable[dict[str, np.ndarray]]:
        """This process's rows of the held-out batches, the last one padded."""

    def train_eval_batches(self) -> Iterable[dict[str, np.ndarray]]:
        """The training part in order, as the held-out part is read; some evaluators ask for it."""

    def to_display(self, values: np.ndarray) -> Any:
        """Model inputs as uint8 images, or tokens as text."""

    def baselines(self) -> dict[str, float]:
        """Figures to hold a language model's against, by name."""


def load_data(
    data: DataConfig, config: Config, eval_batch_size: int, arrays: Any = None
) -> Pipeline:
    """This process's part of the data."""
    # Imported here: what reads no data need not pay for the readers.
    from scanmax.data import load

    return load(
        data,
        data=arrays,
        seed=config.seed,
        batch_size=config.batch_size,
        eval_batch_size=eval_batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        numbered=any(
            options.get("stored")
            for _, options in checked_pairs(config.objective.teachers, "config.objective.teachers")
        ),
    )


def check_labels(config: Config, model: nn.Module, pipeline: Pipeline) -> None:
    """Refuses images without labels, and mixed labels that the model's head does not fit."""
    name = config.data.name
    if not getattr(pipeline, "labelled", True):
        raise UserError(
            f"{HELD_OUT} of {name!r} is unlabelled (its first label is -1): set "
            "config.data.eval_split to another split"
        )
    if pipeline.kind == "image" and pipeline.num_classes < 2:
        told = f" ({pipeline.class_names[0]!r})" if pipeline.class_names else ""
        raise UserError(f"{name!r} holds one class only{told}: there is nothing to tell apart")
    label = pipeline.train_spec.get("label")
    shape = label.shape if label is not None and pipeline.kind == "image" else ()
    classes = getattr(model, "num_classes", None) or pipeline.num_classes
    if len(shape) == 2 and shape[1] != classes:
        raise UserError(
            f"the labels that mixing makes of {name!r} have {shape[1]} classes, the model "
            f"{classes}: leave config.model.num_classes at 0"
        )


def one_row(spec: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch's shapes with a batch axis of one."""
    return {
        name: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype) for name, leaf in spec.items()
    }


def sent_batches(pipeline: Pipeline, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    """The training batches as they go to the devices, where the step finishes them."""
    batches = pipeline.train_iterator(start_step)
    as_sent = getattr(batches, "as_sent", None)
    return batches if as_sent is None else as_sent()


def sent_spec(pipeline: Pipeline) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shapes and types of what `sent_batches` yields, all processes together."""
    return getattr(pipeline, "sent_spec", None) or pipeline.train_spec
