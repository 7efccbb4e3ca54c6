"""Any image model by its name, made small by one rule, on scikit-learn's digits at 16 or 32 pixels.

    python -m scanmax.data prepare digits
    python -m scanmax.train --config=digits_zoo:resnet18 --workdir=runs/resnet18

The argument is a name of `python -m scanmax.models list`; the rule is scanmax.models.shrink's, and
--config.model.kwargs sets any field otherwise. `python -m benchmarks zoo-digits` trains the
smallest model of every family by this config and writes docs/zoo.md.

Hardware: two CPU cores. Time: minutes; 86 seconds of CPU time for the one below, on a busy machine,
compiling included.
Expected: of the 359 held-out images 88.9% by deit_tiny_patch16_224 (seed 0; 58.8% after 12 epochs
at half the rate with b2=0.999); docs/zoo.md has what was measured of the others.
"""

from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.models.shrink import shrink
from scanmax.train.config import (
    CheckpointConfig,
    Config,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)


def get_config(arg: str = "") -> Config:
    """The config; `arg` is the name of an image model."""
    name = arg or "deit_tiny_patch16_224"
    fields, image_size = shrink(name)
    return Config(
        model=ModelConfig(name=name, kwargs=fields),
        data=DataConfig(
            name="digits",
            image_size=image_size,
            augment=AugmentConfig(translate=image_size / 16),
        ),
        objective=ObjectiveConfig(label_smoothing=0.1),
        optim=OptimConfig(name="adamw", lr=4e-3, b2=0.95, weight_decay=0.05, clip_norm=1.0),
        schedule=ScheduleConfig(name="cosine", warmup="1 epoch"),
        checkpoint=CheckpointConfig(metric="accuracy", mode="max"),
        batch_size=32,
        eval_batch_size=256,
        duration="20 epochs",
        log_every="1 epoch",
        eval_every="5 epochs",
    )
