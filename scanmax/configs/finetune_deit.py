"""DeiT-Ti on a folder of images, one folder for each class, from its weights of ImageNet.

    python -m scanmax.train --config=finetune_deit --config.data.data_dir=photos \
        --workdir=runs/photos
    python -m scanmax.train.predict runs/photos new/ --out=predictions.csv

The weights come from timm's page on the hub (the package huggingface_hub, and the network); a file
or a run of your own is named by --config=finetune_deit:deit_tiny.pth. Another size of the family is
--config.model.name=deit_small_patch16_224 with its weights. docs/fine_tuning.md explains each line.

Hardware: an accelerator of 8 GB; two CPU cores do about two images a second. Time: 20 epochs.
Expected: not run on the published weights yet; the page runs it at a tiny size.
"""

from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.train.config import (
    CheckpointConfig,
    Config,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)

WEIGHTS = "timm/deit_tiny_patch16_224.fb_in1k"


def get_config(arg: str = "") -> Config:
    """The config; `arg` names the weights: a file, a run or a hub id."""
    return Config(
        model=ModelConfig(
            name="deit_tiny_patch16_224",
            weights=arg or WEIGHTS,
            adapt=("head",),
            kwargs={"drop_path_rate": 0.1},
        ),
        data=DataConfig(
            name="image_folder",
            image_size=224,
            eval_crop=0.875,
            augment=AugmentConfig(crop_area=(0.35, 1.0), flip=0.5),
        ),
        objective=ObjectiveConfig(label_smoothing=0.1),
        optim=OptimConfig(
            name="adamw", lr=5e-4, weight_decay=0.05, clip_norm=1.0, layer_decay=0.75
        ),
        schedule=ScheduleConfig(name="cosine", warmup="1 epoch"),
        checkpoint=CheckpointConfig(every="1 epoch", keep=1, metric="accuracy", mode="max"),
        batch_size=64,
        duration="20 epochs",
        log_every="1%",
        eval_every="1 epoch",
    )
