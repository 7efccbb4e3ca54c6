"""python -m scanmax.train.predict RUN PATH... [--out=predictions.csv] [--step=last]

What a trained classifier says of files and folders of images, prepared as its run prepared the
held-out part. A file that cannot be read is warned of and left out. In Python:
scanmax.load("runs/x").predict("cat.png"); docs/own_data.md.
"""

import csv
import io
import sys
from collections.abc import Sequence

from absl import flags

from scanmax.errors import UserError
from scanmax.files import write_whole
from scanmax.train.inference import load_for_inference
from scanmax.train.predictor import Prediction, readers

COLUMNS = ("path", "label", "name", "probability")


def as_csv(found: Sequence[Prediction]) -> str:
    """Predictions as a table of COLUMNS."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in found:
        writer.writerow((each.path, each.label, each.name, f"{each.probability:.6f}"))
    return text.getvalue()


def main(argv: list[str]) -> int:
    """Predicts files and folders."""
    if any(word.lstrip("-") in ("help", "h", "helpfull") for word in argv):
        print(__doc__)
        return 0
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "a .csv file; none prints the table", flag_values=values)
    flags.DEFINE_string("step", "last", "a step, last or best", flag_values=values)
    flags.DEFINE_integer("batch_size", 64, "images at a time", flag_values=values, lower_bound=1)
    try:
        rest = values(["", *argv])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if len(rest) < 2:
        raise UserError("usage: python -m scanmax.train.predict RUN PATH... [--out=FILE.csv]")
    run, *paths = rest
    # Before anything is loaded.
    readers(paths)
    found = load_for_inference(run, values["step"].value).predict(
        paths, batch_size=values["batch_size"].value, unreadable="skip"
    )
    if values["out"].value is None:
        print(as_csv(found), end="")
    else:
        write_whole(values["out"].value, as_csv(found))
        print(f"{len(found)} predictions in {values['out'].value}")
    return 0


def run() -> None:
    """Entry of the console script scanmax-predict."""
    from scanmax.cli import run_main

    sys.exit(run_main(main))


if __name__ == "__main__":
    run()
