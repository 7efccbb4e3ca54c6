"""A tiny ViT on a fifth of the digits, taught by the ViT that has seen them all.

    python -m scanmax.data prepare digits
    python -m scanmax.train --config=scanmax/configs/digits_vit.py --workdir=runs/digits_vit
    python -m scanmax.train --config=scanmax/configs/digits_distill.py:dkd --workdir=runs/dkd

The first run is the teacher's. What comes behind the config's name is what the student is held to:
"kd", "dkd", "hint", "nd_loss_kd" (beside kd), or "none" for labels alone. Three seeds of one of
them, in one compiled step:

    python -m scanmax.train.sweep --config=scanmax/configs/digits_distill.py:dkd \
        --workdir=runs/distill/dkd --seeds=0,1,2 --together

Hardware: two CPU cores. Time: 360 steps of half the batch of the 1572 that the teacher took.
Expected: the teacher's own accuracy in the first lines, 98.9% of the 359 held-out images.
"""

from scanmax.configs import digits_vit
from scanmax.data.config import AugmentConfig, DataConfig
from scanmax.errors import UserError, suggest
from scanmax.train.config import (
    CheckpointConfig,
    Config,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)

TERMS = {
    "none": (),
    "kd": (("kd", {"temperature": 4.0}),),
    "dkd": (("dkd", {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}),),
    # Half way up both: 16 patches of the same grid, 32 channels against 64.
    "hint": (("hint", {"student_tap": "block_00/output", "teacher_tap": "block_01/output"}),),
    "nd_loss_kd": (("kd", {"temperature": 4.0}), ("nd_loss_kd", {"weight": 2.0})),
}


def get_config(arg: str = "kd") -> Config:
    """The config of a kind of distillation."""
    kind = arg or "kd"
    if kind not in TERMS:
        raise UserError(f"digits_distill:{kind}: {suggest(kind, TERMS)}")
    taught = digits_vit.get_config()
    teacher = (taught.model.name, {"weights": "runs/digits_vit", "kwargs": taught.model.kwargs})
    return Config(
        model=ModelConfig(
            name="deit_tiny_patch16_224",
            kwargs={
                "img_size": 16,
                "patch_size": 4,
                "dim": 32,
                "depth": 2,
                "heads": 2,
                "class_token": False,
                "pool": "avg",
            },
        ),
        data=DataConfig(
            name="digits",
            image_size=16,
            train_split="train[:20%]",
            augment=AugmentConfig(translate=1.0, rotate=10.0, zoom=0.1, shear=0.1),
        ),
        objective=ObjectiveConfig(terms=TERMS[kind], teachers=(teacher,) if TERMS[kind] else ()),
        optim=OptimConfig(name="adamw", lr=2e-3, b2=0.99, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(name="cosine", warmup="5 epochs"),
        checkpoint=CheckpointConfig(metric="accuracy", mode="max"),
        batch_size=32,
        eval_batch_size=256,
        duration="40 epochs",
        log_every="4 epochs",
        eval_every="8 epochs",
    )
