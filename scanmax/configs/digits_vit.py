"""A small ViT on scikit-learn's 8x8 digits: the run that `make train` starts.

    python -m scanmax.data prepare digits
    python -m scanmax.train --config=digits_vit --workdir=runs/digits_vit

Hardware: two CPU cores. Time: 50 seconds for the 1572 steps.
Expected: 98.3% of the 359 held-out images at the end (6 wrong), 98.6% at the best, seed 0.
"""

from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.train.config import (
    CheckpointConfig,
    Config,
    EmaConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)


def get_config(arg: str = "") -> Config:
    """The config; `arg` is not used."""
    del arg
    return Config(
        model=ModelConfig(
            name="deit_tiny_patch16_224",
            kwargs={
                "img_size": 16,
                "patch_size": 4,
                "dim": 64,
                "depth": 4,
                "heads": 4,
                # The mean patch learns several times faster than a class token on so few images.
                "class_token": False,
                "pool": "avg",
                "drop_path_rate": 0.1,
            },
        ),
        # At twice the size, turning an image does not blur it; the patches are as many.
        data=DataConfig(
            name="digits",
            image_size=16,
            augment=AugmentConfig(translate=1.0, rotate=10.0, zoom=0.1, shear=0.1),
        ),
        objective=ObjectiveConfig(label_smoothing=0.1),
        optim=OptimConfig(name="adamw", lr=1.5e-3, b2=0.99, weight_decay=0.3, clip_norm=1.0),
        schedule=ScheduleConfig(name="cosine", warmup="5 epochs"),
        ema=EmaConfig(decay=0.99, warmup=True),
        checkpoint=CheckpointConfig(metric="accuracy", mode="max"),
        batch_size=64,
        eval_batch_size=256,
        duration="70 epochs",
        log_every="1 epoch",
        eval_every="10 epochs",
    )
