"""Batches by step: grain pipelines whose every batch is a pure function of (seed, step).

Row r of step s is the global index g = s * batch_size + r of an endless stream that reshuffles each
epoch. Its random changes are drawn from (seed, g), those of a whole batch from (seed, s), before a
process takes its own contiguous rows; so neither the number of processes nor where a run started
changes what a step sees.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from scanmax.data import sources, transforms
from scanmax.data.config import DataConfig
from scanmax.data.preprocessing import Preprocessing
from scanmax.data.reading import Batches, TrainingBatches
from scanmax.data.source import Source
from scanmax.data.tokenization import Tokenizer
from scanmax.errors import UserError

Batch = dict[str, np.ndarray]
Spec = dict[str, jax.ShapeDtypeStruct]
# A length that stays one when grain divides it by a batch size of 1, in floating point.
ENDLESS = 2**62
WITH_IMAGES = ("image", "image_text")


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What a run reads. Specs are those of the global batch; iterators yield this process's rows.

    Attributes:
      kind: "image", "image_text", "tokens", "labelled_tokens", "labelled_text" or "series".
      train_spec: Shapes and types of a training batch.
      eval_spec: Shapes and types of an evaluation batch.
      num_train: Training examples per epoch.
      num_eval: Held-out examples.
      num_classes: Classes, or the size of the vocabulary.
      vocab_size: Size of the vocabulary where text has classes or images besides.
      class_names: Names of the classes; empty for tokens.
      start_training: Function of the first step that returns the training iterator.
      start_evaluation: Function that returns the evaluation batches.
      start_training_evaluation: Function that returns the training part as evaluation batches.
      to_display: Turns model inputs into uint8 images, or tokens into text.
      baselines: Figures to hold a model's against, by name; computed when called.
      preprocessing: What becomes of an image in evaluation; None for other data.
      labelled: Whether images are labelled: the first held-out one is.
      notes: Lines that tell a user what was found.
      tokenizer: Turns text into tokens; None of what is no text.
      bytes_per_token: Bytes of the held-out text for each of its tokens.
      text_length: Tokens of a text that stands beside an image.
      class_tokens: [C, P, T], captions of each class of such images; None where nobody told.
      decode: Turns tokens into text.
      finish: What the compiled step does with a batch as `train_iterator(step).as_sent()` yields
        it, bytes and draws; None where that is nothing.
      sent_spec: Shapes and types of such a batch; None are those of `train_spec`.
    """

    kind: str
    train_spec: Spec
    eval_spec: Spec
    num_train: int
    num_eval: int
    num_classes: int
    class_names: tuple[str, ...]
    start_training: Callable[[int], Iterator[Batch]]
    start_evaluation: Callable[[], Iterable[Batch]]
    start_training_evaluation: Callable[[], Iterable[Batch]]
    to_display: Callable[[np.ndarray], Any]
    baselines: Callable[[], dict[str, float]]
    preprocessing: Preprocessing | None = None
    labelled: bool = True
    notes: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None
    bytes_per_token: float = 1.0
    vocab_size: int = 0
    text_length: int = 0
    class_tokens: np.ndarray | None = None
    decode: Callable[[np.ndarray], str] = str
    finish: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    sent_spec: Spec | None = None

    @property
    def normalisation(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and deviation per channel of images in [0, 1]; None for other data."""
        prepare = self.preprocessing
        return None if prepare is None else (prepare.mean, prepare.std)

    def train_iterator(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the training batches of start_step, start_step + 1, ... without end."""
        return self.start_training(start_step)

    def eval_batches(self) -> Iterable[Batch]:
        """Yields every held-out example once, in order; the last batch is padded and masked."""
        return self.start_evaluation()

    def train_eval_batches(self) -> Iterable[Batch]:
        """Yields every training example once, in order and unchanged, as eval_batches does."""
        return self.start_training_evaluation()


def load(
    config: DataConfig,
    *,
    data: Any = None,
    seed: int,
    batch_size: int,
    eval_batch_size: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    numbered: bool = False,
) -> Pipeline:
    """Opens the data of a config.

    Args:
      config: name, place, splits, augmentation.
      data: images and labels in memory in place of what the name and place say: (images, labels),
        or arrays by the names that docs/own_data.md lists.
      seed: decides the order and every random change of the training examples.
      batch_size: rows of the global training batch.
      eval_batch_size: rows of the global evaluation batch; 0 is batch_size.
      process_index: this process.
      process_count: processes that share the batches.
      numbered: whether training batches say the place of each example in the training part,
        "index".

    Returns:
      The pipeline.

    Raises:
      UserError: unknown or unprepared data, none held out, or sizes that cannot be split.
    """
    eval_batch_size = eval_batch_size or batch_size
    for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
        if size < 1 or size % process_count:
            raise UserError(f"{name}={size} does not split over {process_count} processes")
    source = sources.open_source(config, data)
    check_held_out(source, config)
    transform = transforms.for_source(source, config)
    rows = Rows(batch_size, config.augment.repeats if source.kind in WITH_IMAGES else 1)
    rows.check(len(source.train), config.name)
    transform.check_rows(batch_size // process_count)

    examples = Numbered(source.train) if numbered else source.train
    change = NumberedTransform(transform.train) if numbered else transform.train
    train = grain.MapDataset.source(examples).seed(seed % 2**32).shuffle().repeat()
    train = reindex(train if rows.repeats == 1 else Remembered(train), rows.position)
    train = train.seed((seed + 1) % 2**32).random_map(change)
    local = LocalRows(batch_size, process_index, process_count)
    train = grain.MapDataset.source(TrainingRows(train, local, rows.position))
    train = train.seed((seed + 2) % 2**32).random_map(transform.train_batch)
    finish = transform.finish
    finished = train if finish is None else train.map(finish.on_host)
    held_out = LocalRows(eval_batch_size, process_index, process_count)

    def in_order(examples: Sequence[Any]) -> Iterable[Batch]:
        batches = EvalBatches(examples, transform.eval, held_out)
        return Batches(grain.MapDataset.source(batches), config)

    train_spec = transform.spec(batch_size, train=True)
    sent_spec = train_spec if finish is None else transform.sent_spec(batch_size)
    index = {"index": jax.ShapeDtypeStruct((batch_size,), np.int32)} if numbered else {}
    return Pipeline(
        kind=source.kind,
        train_spec=train_spec | index,
        sent_spec=sent_spec | index,
        finish=finish,
        eval_spec=transform.spec(eval_batch_size, train=False),
        num_train=len(source.train),
        num_eval=len(source.eval),
        num_classes=source.num_classes,
        class_names=source.class_names,
        start_training=lambda step: TrainingBatches(finished[step:], train[step:], config),
        start_evaluation=lambda: in_order(source.eval),
        start_training_evaluation=lambda: in_order(source.train),
        to_display=transform.to_display,
        baselines=source.baselines,
        labelled=is_labelled(source),
        notes=source.notes,
        tokenizer=source.tokenizer,
        bytes_per_token=source.bytes_per_token,
        vocab_size=source.vocab_size,
        preprocessing=transform.prepare if source.kind in WITH_IMAGES else None,
        text_length=source.text_length,
        class_tokens=source.class_tokens,
        decode=source.decode,
    )


def check_held_out(source: Source, config: DataConfig) -> None:
    """Says that training needs a held-out part; scores of all the data need none.

    Raises:
      UserError: nothing is held out.
    """
    if not len(source.eval):
        needs = "a class needs two" if source.kind == "image" else "there have to be two"
        raise UserError(
            f"{config.data_dir or config.name} leaves nothing to hold out of {len(source.train)} "
            f"examples: {needs} where no part of the data is for that"
        )


def is_labelled(source: Source) -> bool:
    """Whether the first held-out image has a label: TFDS says -1 where a split has none."""
    if source.kind not in WITH_IMAGES or not len(source.eval):
        return True
    return int(source.eval[0]["label"]) >= 0


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which position of the shuffled stream each row shows; repeats lie a part of a batch apart.

    With k repeats a batch of B rows shows ceil(B / k) examples and row r the example r mod
    ceil(B / k), so the rows that mixing pairs never show the same one.
    """

    batch_size: int
    repeats: int

    @property
    def unique(self) -> int:
        return -(-self.batch_size // self.repeats)

    def check(self, examples: int, name: str) -> None:
        if examples < 1:
            raise UserError(f"the training part of {name!r} is empty")
        if self.repeats < 1:
            raise UserError(f"config.data.augment.repeats={self.repeats} must be at least 1")

    def position(self, index: int) -> int:
        step, row = divmod(index, self.batch_size)
        return step * self.unique + row % self.unique


@dataclasses.dataclass(frozen=True)
class LocalRows:
    """A process's contiguous rows of each global batch."""

    batch_size: int
    process_index: int
    process_count: int

    @property
    def size(self) -> int:
        return self.batch_size // self.process_count

    def position(self, index: int) -> int:
        step, row = divmod(index, self.size)
        return step * self.batch_size + self.process_index * self.size + row


@dataclasses.dataclass(frozen=True)
class TrainingRows:
    """A process's rows of each batch, those of one example made one after another."""

    rows: Sequence[Batch]
    local: LocalRows
    position: Callable[[int], int]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Batch:
        size = self.local.size
        places = [self.local.position(step * size + row) for row in range(size)]
        made = {place: self.rows[place] for place in sorted(places, key=self.position)}
        return stack([made[place] for place in places])


@dataclasses.dataclass(frozen=True)
class Reindexed:
    """A sequence without end that shows another one's elements by position(index)."""

    elements: Sequence[Any]
    position: Callable[[int], int]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Any:
        return self.elements[self.position(index)]


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Examples beside their place."""

    examples: Sequence[Any]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"example": self.examples[index], "index": np.int32(index)}


@dataclasses.dataclass(frozen=True)
class NumberedTransform:
    """A transform of numbered examples, which keep their number."""

    transform: Callable[[Any, np.random.Generator], Batch]

    def __call__(self, numbered: dict[str, Any], rng: np.random.Generator) -> Batch:
        return self.transform(numbered["example"], rng) | {"index": numbered["index"]}


class Remembered:
    """A sequence whose last element each thread keeps: who asks for it again does not read it."""

    def __init__(self, elements: Sequence[Any]):
        self._elements, self._last = elements, threading.local()

    def __reduce__(self) -> Any:
        return Remembered, (self._elements,)

    def __len__(self) -> int:
        return len(self._elements)

    def __getitem__(self, index: int) -> Any:
        kept = self._last.__dict__
        if kept.get("index") != index:
            # Not both at once in memory.
            kept.clear()
            kept.update(element=self._elements[index], index=index)
        return kept["element"]


def reindex(
    elements: Sequence[Any] | grain.MapDataset, position: Callable[[int], int]
) -> grain.MapDataset:
    return grain.MapDataset.source(Reindexed(elements, position))


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """The held-out part cut into batches; this process's rows, zeros beyond the end."""

    examples: Sequence[Any]
    transform: Callable[[Any], Batch]
    rows: LocalRows

    def __len__(self) -> int:
        return -(-len(self.examples) // self.rows.batch_size)

    def __getitem__(self, step: int) -> Batch:
        first = self.rows.position(step * self.rows.size)
        indices = range(first, min(first + self.rows.size, len(self.examples)))
        # A process may have no row at all in the last batch; any example gives the shapes.
        examples = [self.transform(self.examples[index]) for index in indices or [0]]
        batch = stack(examples)
        keep = np.arange(self.rows.size) < len(indices)
        padded = {name: pad_rows(value, self.rows.size, keep) for name, value in batch.items()}
        return padded | {"mask": keep}


def pad_rows(values: np.ndarray, size: int, keep: np.ndarray) -> np.ndarray:
    padded = np.zeros((size, *values.shape[1:]), values.dtype)
    padded[keep] = values[: keep.sum()]
    return padded


def stack(examples: Sequence[Batch]) -> Batch:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
