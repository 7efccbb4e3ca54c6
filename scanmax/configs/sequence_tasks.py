"""Two layers of any causal mixer on a made-up task of sequences: recall, copying, induction.

    python -m scanmax.train --config=sequence_tasks --workdir=runs/mqar
    python -m scanmax.train --config=sequence_tasks:induction_heads,mamba ...

The argument is the task (mqar, selective_copying, induction_heads, copy_memory), then the mixer.

Hardware: two CPU cores. Time: about three minutes for the default, mqar by attention.
Expected: 98% of the held-out queries of mqar by attention, a seventh of them by base_conv
(docs/claims.md, with the other tasks).
"""

from scanmax.data.config import DataConfig
from scanmax.errors import UserError, suggest
from scanmax.train.config import (
    Config,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)

# Length, options, the mixer that shows the task, and a learning rate at which it does.
TASKS = {
    "mqar": (64, {"pairs": 8, "vocab_size": 256}, "attention", 3e-3),
    "selective_copying": (24, {"items": 3, "vocab_size": 10}, "mamba", 1e-2),
    "induction_heads": (32, {"vocab_size": 16}, "mamba", 3e-3),
    "copy_memory": (40, {"items": 5, "vocab_size": 10}, "ckconv", 3e-3),
}
# What the mixers need at these lengths.
MIXER_FIELDS = {
    "attention": {"rotary_base": 10000.0},
    "ckconv": {"max_length": 64, "generator_options": {"omega": 10.0, "hidden": 16}},
}


def get_config(arg: str = "") -> Config:
    """The config; `arg` is "TASK" or "TASK,MIXER"."""
    task, _, mixer = (arg or "mqar").partition(",")
    if task not in TASKS:
        raise UserError(f"config argument {arg!r}: unknown task {task!r}; {suggest(task, TASKS)}")
    length, options, usual, rate = TASKS[task]
    mixer = mixer or usual
    fields = MIXER_FIELDS.get(mixer, {})
    return Config(
        objective=ObjectiveConfig(name="sequence_labels"),
        model=ModelConfig(
            name="lm_tiny",
            kwargs={
                "dim": 64,
                "depth": 2,
                "heads": 2,
                "mlp_ratio": 0.0,
                "mixer": mixer,
                "mixer_options": {mixer: fields},
            },
        ),
        data=DataConfig(name=task, sequence_length=length, kwargs=dict(options)),
        optim=OptimConfig(name="adamw", lr=rate, clip_norm=1.0),
        schedule=ScheduleConfig(name="cosine", warmup="10%"),
        batch_size=64,
        eval_batch_size=64,
        duration="1000 steps",
        log_every="100 steps",
        eval_every="500 steps",
    )
