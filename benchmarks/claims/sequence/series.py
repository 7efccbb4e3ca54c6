"""Forecasts of several series at once: what reading the others gives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim
from scanmax.models.sequence.tsm2 import Tsm2

PAST, FUTURE, VARIATES, LAG = 32, 4, 6, 4


def echoes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Past and future of series each of which repeats the one before it, some steps later.

    The first is noise, which nobody can forecast; of the others all is known but the noise added.
    """
    length = PAST + FUTURE
    values = [rng.standard_normal((count, length + LAG * VARIATES))]
    for _ in range(VARIATES - 1):
        values.append(np.roll(values[-1], LAG, axis=1) + 0.1 * rng.standard_normal(values[0].shape))
    series = np.stack(values, -1)[:, -length:].astype(np.float32)
    return series[:, :PAST], series[:, PAST:]


def error_of(model, steps: int, *, is_alone: bool) -> float:
    """Mean squared error of the forecasts of all series but the first, after training."""

    def given(past, future):
        if not is_alone:
            return past, future
        return tuple(x.transpose(0, 2, 1).reshape(-1, x.shape[1], 1) for x in (past, future))

    rng = np.random.default_rng(0)
    variables = model.init(jax.random.key(0), given(*echoes(rng, 1))[0])
    schedule = optax.warmup_cosine_decay_schedule(0, 1e-2, steps // 10, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    def errors(variables, past, future):
        past, target = given(past, future)
        error = (model.apply(variables, past) - target) ** 2
        return error.reshape(-1, VARIATES, FUTURE).swapaxes(1, 2) if is_alone else error

    @jax.jit
    def step(variables, state, past, future):
        gradients = jax.grad(lambda v: errors(v, past, future).mean())(variables)
        updates, state = optimizer.update(gradients, state, variables)
        return optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    for _ in range(steps):
        variables, state = step(variables, state, *echoes(rng, 32))
    held = echoes(np.random.default_rng(1), 256)
    return float(jnp.mean(jax.jit(errors)(variables, *held)[..., 1:]))


@claim("tsm2-cross-variates", paper="mambamixer", by_hand=True)
def tsm2_cross_variates(quick):
    """Where series depend on each other, TSM2 forecasts them better than Mamba on each alone."""
    steps = 10 if quick else 300
    together = error_of(Tsm2(FUTURE, depth=2, d_state=8), steps, is_alone=False)
    alone = Tsm2(FUTURE, depth=2, d_state=8, expand=16.0, variate_mixer=None)
    apart = error_of(alone, steps, is_alone=True)
    what = (
        f"squared error, {VARIATES - 1} series that echo another {LAG} steps later, {steps} steps"
    )
    return [
        Finding(f"{what}: TSM2", "lower", f"{together:.3f}", together < 0.7 * apart),
        Finding("the same: Mamba on each series alone", "-", f"{apart:.3f}", apart > together),
    ]
