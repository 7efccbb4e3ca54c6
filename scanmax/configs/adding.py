"""The adding problem: the sum of two marked numbers, by convolutions as long as the sequence.

    python -m scanmax.train --config=adding --workdir=runs/adding

Hardware: two CPU cores. Time: about two minutes.
Expected: a mean squared error below 0.01, where saying 1 has 0.167 (docs/claims.md).
"""

from scanmax.data.config import DataConfig
from scanmax.train.config import (
    CheckpointConfig,
    Config,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)


def get_config(arg: str = "") -> Config:
    """The config; `arg` is not used."""
    del arg
    kernel = {"generator": "siren", "generator_options": {"omega": 10.0, "hidden": 16}}
    return Config(
        objective=ObjectiveConfig(name="regression"),
        model=ModelConfig(name="ckcnn_98k", kwargs={"dims": (16, 16), "kernel": kernel}),
        data=DataConfig(name="adding", sequence_length=100),
        optim=OptimConfig(name="adamw", lr=5e-3, clip_norm=1.0),
        schedule=ScheduleConfig(name="cosine", warmup="5%"),
        checkpoint=CheckpointConfig(metric="loss", mode="min"),
        batch_size=64,
        eval_batch_size=64,
        duration="600 steps",
        log_every="100 steps",
        eval_every="300 steps",
    )
