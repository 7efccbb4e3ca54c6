"""Learning rates over steps, by name. Each is a share of the peak rate, warm-up included."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from scanmax.errors import UserError, suggest
from scanmax.train.config import Durations, ScheduleConfig

Schedule = Callable[[jax.Array | int], jax.Array]


def _progress(step, durations):
    """The share of the run that is over, from the end of its warm-up."""
    return (step - durations.warmup) / max(1, durations.total - durations.warmup)


def _cosine(step, durations, config):
    progress = _progress(step, durations)
    return config.final + (1 - config.final) * 0.5 * (
        1 + jnp.cos(math.pi * jnp.clip(progress, 0.0, 1.0))
    )


def _linear(step, durations, config):
    progress = _progress(step, durations)
    return 1 - (1 - config.final) * jnp.clip(progress, 0.0, 1.0)


def _constant(step, durations, config):
    return jnp.ones_like(step)


def _step(step, durations, config):
    # Half a step more: a quotient that is whole must not be rounded below itself.
    drops = jnp.floor((step + 0.5) / max(1, durations.step))
    return jnp.maximum(config.final, config.factor**drops)


def _cool(step, durations, config):
    progress = (step - durations.total + durations.cooldown) / max(1, durations.cooldown)
    return 1 - (1 - config.final) * jnp.clip(progress, 0.0, 1.0)


def _rsqrt(step, durations, config):
    timescale = max(1, durations.warmup)
    rate = jnp.sqrt(timescale / jnp.maximum(step, timescale))
    return rate * _cool(step, durations, config)


SCHEDULES = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "rsqrt": _rsqrt,
    "step": _step,
    "wsd": _cool,
}


def make_schedule(config: ScheduleConfig, lr: float, durations: Durations) -> Schedule:
    """The learning rate as a function of the step.

    During warm-up the share grows linearly, (step + 1) / warmup, so that no step is lost at zero.

    Raises:
      UserError: unknown name; the message lists near matches.
    """
    if config.name not in SCHEDULES:
        raise UserError(
            f"unknown config.schedule.name={config.name!r}; {suggest(config.name, SCHEDULES)}"
        )
    share = SCHEDULES[config.name]
    warmup = durations.warmup

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rate = lr * share(step, durations, config)
        if warmup:
            rate = rate * jnp.minimum(1.0, (step + 1) / warmup)
        return rate

    return schedule


def soft_mask_strength(
    step: jax.Array | int, until: int, *, start: float = 1.0, kind: str = "linear"
) -> jax.Array:
    """How far later tokens count under a soft causal mask: `start` at first, 0 from step `until`.

    "linear" falls evenly, "constant" stays and drops at once: the two of iLLaMA's training, for
    `ops.soft_causal_attention` and the mixer "soft_causal".

    Raises:
      UserError: unknown kind.
    """
    if kind not in ("linear", "constant"):
        raise UserError(f"unknown kind={kind!r}; {suggest(kind, ('linear', 'constant'))}")
    step = jnp.asarray(step, jnp.float32)
    if kind == "constant":
        return jnp.where(step < until, start, 0.0)
    # as released, the last step before `until` is at 0 already
    return start * jnp.clip(1.0 - step / max(1, until - 1), 0.0, 1.0)
