"""Classifiers of text on made-up sentences: does A come before B, near it or anywhere?

    python -m scanmax.train --config=word_order --workdir=runs/order
    python -m scanmax.train --config=word_order:textcnn,3 ...

The argument is the network (dcnn, textcnn, char_cnn), then how near A and B are: less than so many
words apart, 0 for anywhere. A bag of words knows nothing here, and filters with a maximum know what
is near; values kept in their order know more.

Hardware: two CPU cores. Time: about a minute.
Expected: three of four held-out sentences by dcnn, 64% by textcnn.
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

LENGTH = 48
NETWORKS = {
    "dcnn": ("dcnn_sst_binary", {"dim": 8, "widths": (3, 3), "maps": (4, 8)}),
    "textcnn": ("textcnn_rand", {"dim": 16, "filters": 16}),
    "char_cnn": (
        "char_cnn_small",
        {
            "dim": 32,
            "hidden_dim": 32,
            "length": LENGTH,
            "kernels": (3, 3),
            "pools": (3, 1),
            "init_scale": 0.2,
        },
    ),
}


def get_config(arg: str = "") -> Config:
    """The config; `arg` is "NETWORK" or "NETWORK,SPAN"."""
    network, _, span = (arg or "dcnn").partition(",")
    if network not in NETWORKS:
        message = f"config argument {arg!r}: unknown network {network!r}; "
        raise UserError(message + suggest(network, NETWORKS))
    if span and not span.isdigit():
        raise UserError(f"config argument {arg!r}: behind the network it is a number of words")
    name, fields = NETWORKS[network]
    return Config(
        objective=ObjectiveConfig(name="text_classification"),
        model=ModelConfig(name=name, kwargs=dict(fields)),
        data=DataConfig(name="word_order", sequence_length=LENGTH, kwargs={"span": int(span or 0)}),
        optim=OptimConfig(name="adamw", lr=1e-2, clip_norm=1.0),
        schedule=ScheduleConfig(name="cosine", warmup="10%"),
        checkpoint=CheckpointConfig(metric="accuracy", mode="max"),
        batch_size=64,
        eval_batch_size=256,
        duration="400 steps",
        log_every="100 steps",
        eval_every="400 steps",
    )
