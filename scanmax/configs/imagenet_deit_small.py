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

from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.errors import UserError
from scanmax.train.config import (
    CheckpointConfig,
    Config,
    EmaConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)

# What replaces RandAugment and erasing, by the argument that names it.
POLICIES = {
    "3a": {"auto_augment": "3a", "color_jitter": (0.3, 0.3, 0.3)},
    "ta_wide": {"auto_augment": "ta_wide"},
}


def get_config(arg: str = "") -> Config:
    """The config; arg "synthetic" is a dry run of two small steps, a policy changes the images."""
    if arg not in ("", "synthetic", *POLICIES):
        raise UserError(f"argument {arg!r} of the config; known: synthetic, {', '.join(POLICIES)}")
    batch_size = 1024
    config = Config(
        model=ModelConfig(
            name="deit_small_patch16_224", dtype="bfloat16", kwargs={"drop_path_rate": 0.1}
        ),
        data=DataConfig(
            name="imagenet2012",
            image_size=224,
            eval_crop=0.875,
            workers=16,
            # Of each worker, which then holds three batches at most.
            threads=1,
            augment=AugmentConfig(
                crop_area=(0.08, 1.0),
                flip=0.5,
                randaugment="rand-m9-mstd0.5-inc1",
                erase=0.25,
                mixup=0.8,
                cutmix=1.0,
                repeats=3,
            ),
        ),
        objective=ObjectiveConfig(label_smoothing=0.1),
        # The published rate is 5e-4 for every 512 images of the batch.
        optim=OptimConfig(name="adamw", lr=5e-4 * batch_size / 512, weight_decay=0.05),
        schedule=ScheduleConfig(name="cosine", warmup="5 epochs", final=0.01),
        ema=EmaConfig(decay=0.99996),
        checkpoint=CheckpointConfig(every="5 epochs", metric="accuracy", mode="max"),
        batch_size=batch_size,
        duration="300 epochs",
        log_every="50 steps",
        eval_every="5 epochs",
    )
    if arg in POLICIES:
        config.data.augment = dataclasses.replace(
            config.data.augment, randaugment="", erase=0.0, **POLICIES[arg]
        )
    if arg == "synthetic":
        config.data.name, config.data.workers, config.data.threads = "synthetic", 0, 2
        config.data.kwargs = {"classes": 1000, "examples": 64, "eval_examples": 8, "size": 224}
        config.model.dtype = "float32"
        config.batch_size, config.duration, config.schedule.warmup = 8, "2 steps", "1 step"
        config.log_every = config.eval_every = config.checkpoint.every = "1 step"
    return config
