"""A small decoder with latent attention and experts, by Muon, over the bytes of Python's topics.

    python -m scanmax.train --config=bytes_mla --workdir=runs/bytes_mla
    python -m scanmax.train --config=bytes_mla:adamw ...

Multi-head latent attention keeps 24 numbers a token and block where full keys and values are 128;
each MLP is four gated experts, of which a token chooses two; matrices of hidden layers learn by
Muon, all else by Adam, or with the argument adamw all of it.

Hardware: two CPU cores. Time: about two minutes for the 200 steps.
Expected: 3.22 bits per byte by Muon, 3.29 by AdamW, seed 0; at Muon's rate AdamW ends at 3.71.
"""

from scanmax.data.config import DataConfig
from scanmax.errors import UserError, suggest
from scanmax.train.config import (
    CheckpointConfig,
    Config,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ScheduleConfig,
)

RATES = {"muon": 1e-2, "adamw": 3e-3}


def get_config(arg: str = "") -> Config:
    """The config; `arg` is "muon", the default, or "adamw"."""
    optimizer = arg or "muon"
    if optimizer not in RATES:
        message = f"config argument {arg!r}: unknown optimizer; {suggest(arg, RATES)}"
        raise UserError(message)
    return Config(
        objective=ObjectiveConfig(name="language_model"),
        model=ModelConfig(
            name="lm_tiny",
            kwargs={
                "dim": 64,
                "depth": 2,
                "heads": 4,
                "mixer": "mla",
                "mixer_options": {"mla": {"latent_dim": 16}},
                "mlp_ratio": 2.0,
                "gated_mlp": True,
                "activation": "silu",
                "moe": {"num_experts": 4, "top_k": 2},
            },
        ),
        data=DataConfig(name="bytes", sequence_length=128),
        optim=OptimConfig(
            name=optimizer, lr=RATES[optimizer], b2=0.98, weight_decay=0.1, clip_norm=1.0
        ),
        schedule=ScheduleConfig(name="cosine", warmup="5%", final=0.05),
        checkpoint=CheckpointConfig(metric="bits_per_byte", mode="min"),
        batch_size=8,
        eval_batch_size=16,
        duration="200 steps",
        log_every="20 steps",
        eval_every="20 steps",
    )
