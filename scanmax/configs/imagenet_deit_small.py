"""DeiT-S on ImageNet-1k by its published recipe: 300 epochs from scratch, without distillation.

    python -m scanmax.data prepare imagenet2012  # says which two files it needs
    python -m scanmax.train --config=imagenet_deit_small --workdir=runs/deit

On several hosts add --coordinator=HOST:PORT --num_processes=N --process_id=I, and on devices that
do not hold a batch of 1024, --config.optim.accumulate=4 or --config.sharding.preset=fsdp.

Hardware: written for 8 accelerators. Time: 300 epochs are 375,000 steps of 1024 images; not run
here. Expected: 79.8% top-1 on the validation set after 300 epochs (the paper's figure). A dry run
of two steps on made-up images needs no data; "3a" changes images as DeiT III does, by one of grey,
solarisation and a blur, then a jitter of colours, and "ta_wide" by TrivialAugment:

    python -m scanmax.train --config=imagenet_deit_small:synthetic --workdir=DIR
    python -m scanmax.train --config=imagenet_deit_small:3a --workdir=runs/deit_3a
"""

import dataclasses

from scanmax.errors import UserError
from scanmax.train.config import Config
from scanmax.train.recipes import dry_run, recipe_config

# What replaces RandAugment and erasing, by the argument that names it.
POLICIES = {
    "3a": {"auto_augment": "3a", "color_jitter": (0.3, 0.3, 0.3)},
    "ta_wide": {"auto_augment": "ta_wide"},
}


def get_config(arg: str = "") -> Config:
    """The config; arg "synthetic" is a dry run of two small steps, a policy changes the images."""
    if arg not in ("", "synthetic", *POLICIES):
        raise UserError(f"argument {arg!r} of the config; known: synthetic, {', '.join(POLICIES)}")
    config = recipe_config("deit_small_patch16_224")
    if arg in POLICIES:
        config.data.augment = dataclasses.replace(
            config.data.augment, randaugment="", erase=0.0, **POLICIES[arg]
        )
    return dry_run(config) if arg == "synthetic" else config
