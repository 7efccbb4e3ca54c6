"""A tiny ViT on a tenth of the digits, taught by the ViT that has seen them all.

    python -m scanmax.data prepare digits
    python -m scanmax.train --config=digits_vit --workdir=runs/digits_vit
    python -m scanmax.train --config=digits_distill:dkd --workdir=runs/dkd

The first run is the teacher's. What comes behind the config's name is what the student is held to:
"kd", "dkd", "hint", "nd_loss_kd" (beside kd), another name of TERMS below, or "none" for labels
alone. Three seeds of one of them, in one compiled step:

    python -m scanmax.train.sweep --config=digits_distill:dkd \
        --workdir=runs/distill/dkd --seeds=0,1,2 --together

Hardware: two CPU cores. Time: two minutes for the 1350 steps of three seeds with "none", twice
as long with a teacher.
Expected: with a teacher of 98.3%, held-out accuracy at the last step, seeds 0 to 2: labels alone
85.5% (85.0% to 86.4%), kd 88.4% (86.6% to 89.7%), dkd 89.5% (89.1% to 90.0%), hint 87.7% (85.2% to
88.9%), nd_loss_kd 88.0% (86.6% to 90.3%). So a teacher is worth three points here, dkd one more.
With a weight of 8, as in recipes of its authors, dkd reaches 88.0% (87.2% to 88.6%), nd_loss_kd
with 2 in place of 0.5 86.9%; the other terms are not measured at these settings.
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
    "dkd": (("dkd", {"alpha": 1.0, "beta": 2.0, "temperature": 4.0}),),
    # Half way up both: 16 patches of the same grid, 32 channels against 64.
    "hint": (("hint", {"student_tap": "block_00/output", "teacher_tap": "block_01/output"}),),
    "nd_loss_kd": (("kd", {"temperature": 4.0}), ("nd_loss_kd", {"weight": 0.5})),
    # At the start the teacher's answer counts, then less and less.
    "deviation_aware": (("deviation_aware", {"schedule": ((0, 2), (1, 0.5))}),),
    "topkld": (("topkld", {"k": 3, "alpha": 1.0, "beta": 2.0}),),
    "ofa": (("ofa", {"taps": ("block_00/output", "block_01/output"), "least": 4}),),
    "cskd": (("cskd", {"student_tap": "block_01/output", "teacher_tap": "block_03/output"}),),
    "crosskd": (("crosskd", {"student_tap": "block_00/output", "teacher_tap": "block_01/output"}),),
    "scalekd": (
        ("kd", {"temperature": 4.0}),
        (
            "scalekd",
            {
                "weight": 0.05,
                "student_tap": "block_01/output",
                "teacher_tap": "block_03/output",
                "early_student_tap": "block_00/output",
                "early_teacher_tap": "block_02/output",
            },
        ),
    ),
    "cross_arch": (
        ("kd", {"temperature": 4.0}),
        (
            "cross_arch",
            {
                "weight": 0.1,
                "teacher_tap": "block_03/output",
                "teacher_mixer": "block_03/mixer",
            },
        ),
    ),
    "proc_kd": (("proc_kd", {"teacher_tap": "block_01/output", "weight": 0.5}),),
    "channelwise": (("kd", {"temperature": 4.0}), ("channelwise", {"weight": 0.1})),
    "selective_fusion": (
        ("kd", {"temperature": 4.0}),
        (
            "selective_fusion",
            {
                "student_taps": ("stem", "block_00/output", "block_01/output"),
                "teacher_taps": ("stem", "block_01/output", "block_03/output"),
                "stage_weights": (0.1, 0.5, 1.0),
            },
        ),
    ),
    "attention_map": (("kd", {"temperature": 4.0}), ("attention_map", {"maps": 1.0})),
    "congruence": (("kd", {"temperature": 4.0}), ("congruence", {"weight": 10.0})),
    "diswot": (("kd", {"temperature": 4.0}), ("diswot", {"relation": 10.0})),
    "distance_correlation": (("kd", {"temperature": 4.0}), "distance_correlation"),
    "wcord": (("kd", {"temperature": 4.0}), ("wcord", {"weight": 0.2})),
    "discriminator": (("kd", {"temperature": 1.0}), ("discriminator", {"weight": 0.1})),
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
            train_split="train[:10%]",
            augment=AugmentConfig(translate=1.0, rotate=10.0, zoom=0.1, shear=0.1),
        ),
        objective=ObjectiveConfig(
            weight=0.5, terms=TERMS[kind], teachers=(teacher,) if TERMS[kind] else ()
        ),
        optim=OptimConfig(name="adamw", lr=2e-3, b2=0.99, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(name="cosine", warmup="5 epochs"),
        checkpoint=CheckpointConfig(metric="accuracy", mode="max"),
        batch_size=16,
        eval_batch_size=256,
        duration="150 epochs",
        log_every="15 epochs",
        eval_every="30 epochs",
    )
