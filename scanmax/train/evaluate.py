"""python -m scanmax.train.evaluate RUN [--data.FIELD=VALUE ...] [--part=held_out] [--out=FILE.json]
python -m scanmax.train.evaluate --model=NAME --weights=SOURCE --data.data_dir=DIR [--classes=FILE]

How good a trained model is: of classifiers of images accuracy, loss, calibration, each class and
what it is mistaken for; of other runs the metrics of their training. A run is asked of its own
held-out part, unless --data.name, --data.data_dir and the like name other data; images are prepared
as its run prepared them. Folders that hold some of its classes only, in any order, are matched by
name, and its other classes then count as not said (as for ImageNet-A and -R); folders called by
numbers that are no names of the model's (ImageNetV2's) are places in its order.

  --part=held_out     or "train", or "all" of the data
  --step=last         a checkpoint: a step, last or best
  --model=NAME        a registered model instead of a run, with --weights=SOURCE as
                      scanmax.load_weights takes it; images of --data.name=image_folder are resized
                      to --data.image_size and cut by --data.eval_crop=0.875
  --classes=FILE      names of the model's classes, a line each, in its order
  --real=FILE.json    ImageNet's reassessed labels, a list of classes for each validation image
  --batch_size=64     images at a time
  --out=FILE.json     everything, the confusion matrix included
"""

import dataclasses
import itertools
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from scanmax import cli
from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.data.source import Source
from scanmax.data.sources import open_source
from scanmax.data.transforms import for_source
from scanmax.errors import UserError, suggest
from scanmax.files import write_whole
from scanmax.train.build import build
from scanmax.train.evaluation import evaluate as evaluate_state
from scanmax.train.inference import Read, load_for_inference, read_checkpoint
from scanmax.train.objectives import OBJECTIVES
from scanmax.train.predictor import Classifier
from scanmax.train.scores import Judge, Scores

PARTS = ("held_out", "train", "all")
# What timm's models without a figure of their own are evaluated with.
CROP = 0.875


def evaluate_classifier(
    classifier: Classifier,
    source: Source,
    *,
    part: str = "held_out",
    batch_size: int = 64,
    real: Sequence[Sequence[int]] = (),
) -> Scores:
    """How good a classifier is on labelled images.

    Args:
      classifier: prepares images and gives probabilities of its classes.
      source: labelled images, whose classes are some or all of the classifier's.
      part: "held_out", "train" or "all".
      batch_size: images that the model is asked of at a time.
      real: classes of each of ImageNet's validation images, by the number in its name.

    Raises:
      UserError: classes that the classifier does not know, or a part without images.
    """
    names = source.class_names or tuple(str(label) for label in range(source.num_classes))
    unknown = next((x for labels in real for x in labels if not 0 <= x < len(names)), None)
    if unknown is not None:
        raise UserError(
            f"--real holds the class {unknown}, a place among all classes; the data hold "
            f"{len(names)} of them"
        )
    judge = Judge(names)
    for examples in batches(examples_of(source, part), batch_size):
        whole = classifier([example["image"] for example in examples], batch_size)
        kept = matching_classes(classifier.class_names, source, whole.shape[-1])
        said = whole[:, kept]
        if len(kept) < whole.shape[-1]:
            # What is not asked is not said. Nothing may be left where another class took all.
            said = said / np.maximum(said.sum(axis=-1, keepdims=True), np.finfo(said.dtype).tiny)
        labels = np.asarray([example["label"] for example in examples])
        if labels.min() < 0:
            raise UserError("the data hold images without a label (-1): there is nothing to judge")
        judge.add(said, labels, [real[number_of(example, real)] for example in examples if real])
    return judge.scores()


def matching_classes(known: Sequence[str], source: Source, classes: int) -> np.ndarray:
    """For each class of the data its place among a classifier's.

    Args:
      known: names of the classifier's classes, if it has any.
      source: the data.
      classes: how many the classifier has.

    Raises:
      UserError: the data hold a class that the classifier does not know.
    """
    names = source.class_names
    if not known or not names or len(set(known) & set(names)) == 0:
        if names and all(name.isdecimal() for name in names):
            # Sorted as words, "10" comes before "2": their numbers are what they say.
            numbers = np.asarray([int(name) for name in names])
            if numbers.max() < classes:
                return numbers
        # Names say nothing: as many classes are the same ones.
        if source.num_classes == classes:
            return np.arange(classes)
        raise UserError(
            f"the data hold {source.num_classes} classes"
            + (f" ({names[0]!r}, ...)" if names else "")
            + f" and the model {classes}"
            + (f" ({known[0]!r}, ...)" if known else "")
            + ": name the model's classes by --classes=FILE, a line each"
        )
    places = {name: place for place, name in enumerate(known)}
    for name in names:
        if name not in places:
            raise UserError(
                f"the data hold the class {name!r}, which the model does not know; "
                + suggest(name, list(known))
            )
    return np.asarray([places[name] for name in names])


def read_real(file: str) -> list[list[int]]:
    """ImageNet's reassessed labels: the classes of each validation image, in their order.

    Raises:
      UserError: the file is not such a list.
    """
    try:
        found = json.loads(pathlib.Path(file).expanduser().read_text())
        return [[int(label) for label in labels] for labels in found]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--real={file!r} is no list of lists of classes: {error}") from error


def number_of(example: Any, real: Sequence[Any]) -> int:
    """Which of the validation images an example is, by the name of its file.

    Raises:
      UserError: it has no such name.
    """
    path = example.get("path", example.get("file_name", ""))
    path = path.decode() if isinstance(path, bytes) else path
    match = re.search(r"ILSVRC2012_val_0*([1-9]\d*)", path)
    if match is None or int(match[1]) > len(real):
        raise UserError(
            f"--real has labels of ILSVRC2012_val_00000001.JPEG to {len(real):08}; the data hold "
            + (repr(path) if path else "images without names of files")
        )
    return int(match[1]) - 1


def examples_of(source: Source, part: str) -> Iterator[Any]:
    """The labelled images of a part.

    Raises:
      UserError: it holds none.
    """
    parts = {"held_out": [source.eval], "train": [source.train]}
    sequences = parts.get(part) or [source.train, source.eval]
    if not sum(len(sequence) for sequence in sequences):
        others = len(source.train) + len(source.eval)
        told = f"; --part=all holds {others}" if others else ""
        raise UserError(f"--part={part} holds no image{told}")
    for sequence in sequences:
        for number in range(len(sequence)):
            yield sequence[number]


def batches(examples: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of so many, the last one shorter."""
    examples = iter(examples)
    while batch := list(itertools.islice(examples, size)):
        yield batch


def evaluate_run(found: Read, data: DataConfig, batch_size: int = 64) -> dict[str, float]:
    """The held-out metrics of a run that is no classifier of images, as its training had them.

    Args:
      found: what `read_checkpoint` gives.
      data: what to read.
      batch_size: examples that the model is asked of at a time.
    """
    config = dataclasses.replace(
        found.config, data=data, evaluators=(), mix=(), eval_batch_size=batch_size
    )
    own = config.objective.name
    if not OBJECTIVES[own].metric_names:
        raise UserError(f"the objective {own!r} says nothing of single examples")
    run = build(config, devices=jax.devices()[:1])
    # As the checkpoint has them, whatever became of the other of the two.
    learned = {"params": found.variables, "carried": found.carried}
    if config.ema.decay:
        learned["ema"] = found.variables
    return evaluate_state(run, dataclasses.replace(run.init(), **learned))


def named_classes(file: str) -> tuple[str, ...]:
    """The lines of a file."""
    try:
        lines = pathlib.Path(file).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes={file!r} cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def registered_classifier(
    name: str, weights: str, classes: Sequence[str], source: Source, data: DataConfig
) -> Classifier:
    """A registered model with weights, and what it reads of a source's images."""
    from scanmax.models import create_model, load_weights

    width = len(classes) or None
    model = create_model(name, width) if width else create_model(name)
    prepare = for_source(source, data).prepare
    shape = (*prepare.size, prepare.channels)
    return Classifier(model, load_weights(model, weights, shape), prepare, tuple(classes))


@dataclasses.dataclass
class Asked:
    """What `--data.FIELD=VALUE` changes."""

    data: DataConfig


def main(argv: list[str]) -> int:
    """Evaluates, prints, and writes --out."""
    if not argv or any(word.lstrip("-") in ("help", "h", "helpfull") for word in argv):
        print(__doc__)
        return 0
    values = flags.FlagValues()
    flags.DEFINE_enum("part", "held_out", PARTS, "what of the data", flag_values=values)
    flags.DEFINE_string("step", "last", "a checkpoint", flag_values=values)
    flags.DEFINE_string("model", "", "a registered model", flag_values=values)
    flags.DEFINE_string("weights", "", "its weights", flag_values=values)
    flags.DEFINE_string("classes", "", "names of its classes", flag_values=values)
    flags.DEFINE_string("real", "", "a .json file", flag_values=values)
    flags.DEFINE_integer("batch_size", 64, "images at a time", flag_values=values, lower_bound=1)
    flags.DEFINE_string("out", "", "a .json file", flag_values=values)
    changed = [word.replace("--data.", "--config.data.", 1) for word in argv if is_data(word)]
    try:
        runs = values(["", *(word for word in argv if not is_data(word))])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    name, weights = values["model"].value, values["weights"].value
    if len(runs) != (0 if name else 1):
        raise UserError("name one run, or --model=NAME and --weights=SOURCE")
    if name and not weights:
        raise UserError(f"--model={name} needs --weights=SOURCE: a file, a folder or a hub id")
    step, part, size = (values[key].value for key in ("step", "part", "batch_size"))
    if not name and (weights or values["classes"].value):
        raise UserError("--weights and --classes are of --model=NAME; a run has its own")
    if name and step != "last":
        raise UserError(f"--step={step} is of a run; --model={name} has none")
    trained = None if name else load_for_inference(runs[0], step)
    asked = Asked(run_data(trained.config.data, changed) if trained else model_data(name))
    data = cli.override(asked, changed, flags.FlagValues()).data
    if trained and not trained.is_classifier:
        if part != "held_out":
            raise UserError(f"--part={part} is of classifiers of images; this run is none")
        if values["real"].value:
            raise UserError("--real is of classifiers of images; this run is none")
        found = evaluate_run(read_checkpoint(runs[0], step), data, size)
        print("\n".join(f"{key:<18} {value:.4f}" for key, value in found.items()))
        return write(values["out"].value, found)
    source = open_source(data)
    classes = named_classes(values["classes"].value) if values["classes"].value else ()
    if trained:
        classifier = trained.classifier
    else:
        classifier = registered_classifier(name, weights, classes, source, data)
    real = read_real(values["real"].value) if values["real"].value else ()
    scores = evaluate_classifier(classifier, source, part=part, batch_size=size, real=real)
    told = {"held_out": "held-out part", "train": "training part", "all": "all"}[part]
    print(f"{told} of {data.name!r}: {scores.images} images, {len(scores.class_names)} classes")
    print(scores.table())
    return write(values["out"].value, scores.to_dict())


def is_data(word: str) -> bool:
    """Whether an argument changes what is read."""
    return word.startswith("--data.")


def run_data(own: DataConfig, changed: Sequence[str]) -> DataConfig:
    """The data of a run without what only training has; of other data only what names them."""
    others = any(word.startswith("--config.data.name=") for word in changed)
    data = DataConfig(name=own.name, image_size=own.image_size) if others else own
    return dataclasses.replace(data, augment=AugmentConfig(), max_bad_records=0)


def model_data(name: str) -> DataConfig:
    """What a registered model reads where nothing else is said."""
    from scanmax.models import model_info

    info = model_info(name)
    if info.input_kind != "image":
        raise UserError(f"--model={name} reads {info.input_kind}; evaluate its run instead")
    return DataConfig(name="image_folder", image_size=info.input_size[0], eval_crop=CROP)


def write(out: str, found: dict[str, Any]) -> int:
    """Writes --out where it is asked for."""
    if out:
        write_whole(out, json.dumps(found, indent=2) + "\n")
        print(f"written to {out}")
    return 0


def run() -> None:
    """Entry of the console script scanmax-evaluate."""
    sys.exit(cli.run_main(main))


if __name__ == "__main__":
    run()
