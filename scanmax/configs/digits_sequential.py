"""The digits as 64 pixels in a row, in their order or another, by convolutions as long as the row.

    python -m scanmax.data prepare digits
    python -m scanmax.train --config=digits_sequential --workdir=runs/row
    python -m scanmax.train --config=digits_sequential:ccnn,permuted ...

The argument is the network (ckcnn, flexnet, ccnn, or short: ckcnn with kernels of 3 taps), then
"permuted" for one fixed order of the pixels drawn at random.

Hardware: two CPU cores. Time: about two minutes.
Expected: 97% of the held-out digits in order by ckcnn, 99% by flexnet; permuted 88% and 98%, by
short kernels 59% (docs/claims.md).
"""

from typing import Any

from scanmax.data.config import DataConfig
from scanmax.errors import UserError, suggest
from scanmax.train.config import (
    CheckpointConfig,
    Config,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
)

_SIREN = {"generator": "siren", "generator_options": {"omega": 10.0, "hidden": 16}}
_MAGNET = {
    "generator": "magnet",
    "generator_options": {"omega": 10.0, "hidden": 16},
    "mask": True,
    "mask_options": {"learn_mean": False, "sigma": 0.5},
}
_ROW = {"sequential": True, "is_causal": True, "kernel_size": None}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ckcnn": ("ckcnn_98k", {"dims": (16, 16), "norm": "batch", "kernel": _SIREN}),
    "flexnet": (
        "flexnet_16",
        {"stem_dim": 16, "dims": (16, 16), "kernel": _MAGNET, **_ROW},
    ),
    "ccnn": ("ccnn_4_140_smnist", {"dims": (24, 24), "kernel": _MAGNET}),
    "short": (
        "ckcnn_98k",
        {"dims": (16, 16), "norm": "batch", "kernel": _SIREN, "kernel_size": 3},
    ),
}


def get_config(arg: str = "") -> Config:
    """The config; `arg` is "NETWORK" or "NETWORK,permuted"."""
    network, _, order = (arg or "ckcnn").partition(",")
    if network not in NETWORKS:
        message = f"config argument {arg!r}: unknown network {network!r}; "
        raise UserError(message + suggest(network, NETWORKS))
    if order not in ("", "permuted"):
        raise UserError(f"config argument {arg!r}: behind the network it is 'permuted' or nothing")
    name, fields = NETWORKS[network]
    return Config(
        model=ModelConfig(name=name, kwargs={**fields, "permuted": order == "permuted"}),
        data=DataConfig(name="digits"),
        optim=OptimConfig(name="adamw", lr=1e-2, clip_norm=1.0),
        schedule=ScheduleConfig(name="cosine", warmup="2 epochs"),
        checkpoint=CheckpointConfig(metric="accuracy", mode="max"),
        batch_size=64,
        eval_batch_size=256,
        duration="20 epochs",
        log_every="1 epoch",
        eval_every="5 epochs",
    )
