"""python -m scanmax.data prepare NAME | prepare --config=FILE [--config.a.b=c ...] | list
python -m scanmax.data show --config=FILE [--config.a.b=c ...] [--out=batch.png]

`show` draws rows of a training batch as the model learns them, with every random change: images
under the names of their classes, of text what the tokens say, document by document. A terminal gets
a small picture too. --rows=16 of the batch of --step=0 are shown.

`prepare` puts a data set where training reads it: --data_dir=DIR or TFDS's directory,
TFDS_DATA_DIR or ~/tensorflow_datasets. What is there already is left alone. Sets that need a
download are made by TFDS's own builders, which want TensorFlow for it; reading never does.
"""

import importlib.util
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from scanmax import cli
from scanmax.data import hub, show, sources
from scanmax.data.config import DataConfig
from scanmax.data.network import check_network
from scanmax.data.pipeline import WITH_IMAGES
from scanmax.errors import UserError, suggest

COMMANDS = ("prepare", "show", "list")
# A preparation writes into its folder all the time; one that has not for so long was killed.
LEFTOVER_SECONDS = 3600
OWN = {
    "digits": "8x8 handwritten digits, 10 classes, bundled with scikit-learn",
    "bytes": "bytes of Python's documentation topics, read from the running Python",
    "arrays": "your own images and labels in data.data_dir, .npz, .npy or .safetensors",
    "image_folder": "your own images in data.data_dir, one folder per class",
    "text": "your own text in data.data_dir, files or a folder of them",
    "parquet": "your own images and classes, or text, in .parquet files in data.data_dir",
    "webdataset": "your own tar shards of images and classes in data.data_dir",
    "hf:NAME": "a set of the package datasets: a folder of save_to_disk, or in its cache",
    "pairs": "your own images and what is said of each, arrays, files or shards in data.data_dir",
    "captioned_shapes": "pictures of coloured shapes, and captions of them",
    "synthetic": "coloured blobs of any size and number of classes",
    "mqar": "multi-query associative recall: pairs of keys and values, then keys again",
    "selective_copying": "items among blanks, to be named in their order",
    "induction_heads": "what followed a special token before",
    "copy_memory": "items to be named after a long pause",
    "reversal": "words to be written from the last to the first",
    "reconstruction": "strings, to be told again from a code of one size",
    "adding": "the sum of two marked numbers of many",
    "word_order": "sentences, and whether A comes before B in each",
}


def main(argv: list[str]) -> int:
    """Runs a command; returns the exit status."""
    if not argv or argv[0].lstrip("-") in ("help", "h", "helpfull"):
        print(__doc__)
        return 0
    command, *rest = argv
    if command not in COMMANDS:
        raise UserError(f"unknown command {command!r}; {suggest(command, COMMANDS)}")
    if command == "list":
        return list_sources(rest)
    if command == "show":
        return show_batch(rest)
    print(prepare(*parse_prepare(rest)))
    return 0


def parse_prepare(argv: Sequence[str]) -> tuple[str, str, str]:
    """What to prepare, where, and which subset, from NAME [--data_dir=DIR] or from a config."""
    if any(word.lstrip("-").startswith("config") for word in argv):
        config, _ = cli.parse_flags(argv)
        data = getattr(config, "data", None)
        if not isinstance(data, DataConfig):
            raise UserError("the config has no field `data` that says what to prepare")
        return data.name, data.data_dir, str(data.kwargs.get("subset", ""))
    values = flags.FlagValues()
    flags.DEFINE_string("data_dir", "", "where the data go", flag_values=values)
    flags.DEFINE_string("subset", "", "of a set hf:NAME", flag_values=values)
    try:
        names = values(["", *argv])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if len(names) != 1:
        raise UserError("say which data set: python -m scanmax.data prepare digits")
    return names[0], values["data_dir"].value, values["subset"].value


def prepare(name: str, data_dir: str = "", subset: str = "") -> str:
    """Builds a data set unless it is there; says where it is.

    Args:
      name: of the set.
      data_dir: where it goes; "" is the usual place.
      subset: which of the configurations of a set "hf:NAME".

    Raises:
      UserError: an unknown name, or a set that cannot be built here; the message says why.
    """
    if name.startswith(hub.PREFIX):
        return hub.prepare(name, data_dir, subset)
    if subset:
        raise UserError(f"--subset={subset} is of sets hf:NAME; {name!r} has none")
    if name in sources.SOURCES:
        return f"{name}: nothing to prepare, {OWN[name]}"
    builder = sources.make_builder(name, data_dir)
    if builder.is_prepared():
        return f"{name}: already in {builder.data_dir}"
    remove_leftovers(builder)
    if name in sources.BUILDERS:
        # Ours take a second; three progress bars would only hide the line that says where.
        hide_progress()
    elif not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        # What a user has downloaded by hand needs no network; TFDS says where it belongs.
        check_network(builder.url_infos)
    try:
        builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        raise UserError(
            f"TFDS builds {name!r} with {error.name}, which is not installed; "
            f"pip install {'tensorflow' if error.name == 'tensorflow' else error.name}, "
            "or prepare it on another machine and copy the folder"
        ) from error
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UserError(f"TFDS cannot build {name!r}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot build {name!r} in {builder.data_dir}: {error}") from error
    return f"{name}: prepared in {builder.data_dir}"


def hide_progress() -> None:
    """Turns TFDS's progress bars off."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()


def remove_leftovers(builder: Any) -> None:
    """Removes what a killed preparation of the same version left beside the place of the data."""
    place = builder.data_path
    if place.parent.exists():
        for folder in place.parent.glob(f"incomplete.*_{place.name}"):
            if time.time() - folder.stat().mtime > LEFTOVER_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def show_batch(argv: Sequence[str]) -> int:
    """Draws rows of a training batch of a config's."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("out", "", "a .png", flag_values=values)
        flags.DEFINE_integer("rows", 16, "how many", flag_values=values, lower_bound=1)
        flags.DEFINE_integer("step", 0, "whose batch", flag_values=values, lower_bound=0)

    config, values = cli.parse_flags(argv, define=define)
    if not isinstance(getattr(config, "data", None), DataConfig):
        raise UserError("the config has no field `data` that says what to show")
    shown = show.first_rows(
        config.data,
        seed=config.seed,
        batch_size=config.batch_size,
        step=values["step"].value,
        rows=values["rows"].value,
    )
    print(show.describe(shown, config.data.name))
    for note in shown.pipeline.notes:
        print(note)
    if shown.pipeline.kind not in WITH_IMAGES:
        print("\n".join(show.to_lines(shown)))
    elif sys.stdout.isatty():
        print(show.to_blocks(shown))
    if config.mix:
        print("config.mix changes it further, on the device")
    if values["out"].value:
        show.draw(shown, values["out"].value)
        print(f"drawn in {values['out'].value}")
    return 0


def list_sources(argv: Sequence[str]) -> int:
    """Prints what can be read: our own sources, then what lies prepared."""
    values = flags.FlagValues()
    flags.DEFINE_string("data_dir", "", "where the data lie", flag_values=values)
    values(["", *argv])
    for name, what in OWN.items():
        state = "ready"
        if name in sources.BUILDERS:
            prepared = sources.make_builder(name, values["data_dir"].value).is_prepared()
            state = "ready" if prepared else "not prepared"
        if name.startswith(hub.PREFIX) and importlib.util.find_spec("datasets") is None:
            state = "scanmax[hf]"
        print(f"{name:<18} {state:<14} {what}")
    print("and any image set of TFDS by its name: https://www.tensorflow.org/datasets/catalog")
    return 0


def run() -> None:
    """Entry of the console script scanmax-data."""
    sys.exit(cli.run_main(main))


if __name__ == "__main__":
    run()
