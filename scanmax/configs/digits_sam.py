"""Sharpness-aware minimisation on scikit-learn's 8x8 digits.

    python -m scanmax.train --config=scanmax/configs/digits_sam.py:sam --workdir=runs/sam

The argument is "sam" or "plain"; both log the sharpness that SAM lowers.

Hardware: two CPU cores. Time: two minutes for the 449 steps, half as long for "plain".
Expected: a loss that falls as that of digits_vit does; sharpness and accuracy of the two rules side
by side are not measured yet.
"""

from scanmax.configs.digits_vit import get_config as digits_vit
from scanmax.errors import UserError, suggest
from scanmax.train.config import Config


def get_config(arg: str = "") -> Config:
    """The config; `arg` is a rule of the gradient."""
    rule = arg or "sam"
    if rule not in ("sam", "plain"):
        raise UserError(f"config argument {arg!r}: unknown rule; {suggest(rule, ['sam', 'plain'])}")
    config = digits_vit()
    config.optim.gradient = rule
    config.optim.gradient_kwargs = {"rho": 0.1} if rule == "sam" else {}
    config.evaluators = (("sharpness", {"rho": 0.1}),)
    config.duration = "20 epochs"
    return config
