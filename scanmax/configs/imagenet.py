"""Any network of images by its authors' recipe on ImageNet-1k: docs/recipes.md lists them.

    python -m scanmax.data prepare imagenet2012  # says which two files it needs
    python -m scanmax.train --config=imagenet:swin_tiny_patch4_window7_224 --workdir=bucket/swin

On several hosts add --coordinator=HOST:PORT --num_processes=N --process_id=I, and on devices that
do not hold the batch --config.optim.accumulate=4 or --config.sharding.preset=fsdp. A dry run of two
steps of eight made-up images needs no data:

    python -m scanmax.train --config=imagenet:convnext_tiny,synthetic --workdir=DIR

Hardware: written for 8 accelerators and more. Time: 90 to 600 epochs; not run here.
Expected: the top-1 accuracy that docs/recipes.md gives beside the name is the authors' own.
"""

from scanmax.errors import UserError
from scanmax.train.config import Config
from scanmax.train.recipes import dry_run, recipe_config


def get_config(arg: str = "") -> Config:
    """The config; `arg` is a model's name, with ",synthetic" behind it for a dry run."""
    name, _, how = arg.partition(",")
    if how not in ("", "synthetic"):
        raise UserError(f"argument {arg!r} of the config: 'synthetic' or nothing behind the name")
    config = recipe_config(name or "deit_small_patch16_224")
    return dry_run(config) if how else config
