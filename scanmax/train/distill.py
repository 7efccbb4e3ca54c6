"""Distillation of convolution filters into modal state spaces (Laughing Hyena)."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.ops.contract import require


class ModalFit(NamedTuple):
    """A filter as a modal state space.

    Attributes:
      parameters: log_magnitude, angle, residue and D, keyword arguments of `ops.modal_ssm`.
      error: of each channel, the norm of the difference over that of the filter.
    """

    parameters: Mapping[str, Array]
    error: Float[Array, " D"]


def initial_modes(taps: Float[np.ndarray, " T"], modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Poles and residues [N] of one filter h_1, h_2, .. by balanced truncation, without a gradient.

    The Hankel matrix is cut at its largest singular values, which gives a balanced realisation of
    that order; its eigenvalues are the poles (one of each conjugate pair, those outside the unit
    circle moved into it), and the residues solve a linear least-squares problem. The order is the
    largest whose poles are at most N pairs or single reals.
    """
    size = len(taps) // 2
    index = np.add.outer(np.arange(size), np.arange(size))
    left, values, right = np.linalg.svd(taps[index])
    shifted = taps[index + 1]
    rank = int((values > 1e-12 * values[0]).sum()) if values[0] > 0 else 0
    for order in range(min(2 * modes, rank), 0, -1):
        root = np.sqrt(values[:order])
        matrix = (left[:, :order].T @ shifted @ right[:order].T) / np.outer(root, root)
        poles = np.linalg.eigvals(matrix)
        poles = poles[poles.imag >= -1e-12]
        if len(poles) <= modes:
            break
    else:
        poles = np.zeros(0, complex)
    poles = poles / np.maximum(np.abs(poles), 1)
    powers = poles[None] ** np.arange(len(taps))[:, None]
    columns = np.concatenate([powers.real, -powers.imag], axis=1)
    solution = np.linalg.lstsq(columns, taps, rcond=None)[0]
    weights = solution[: len(poles)] + 1j * solution[len(poles) :]
    spare = modes - len(poles)
    # modes left over start small and spread over the circle
    angles = np.pi * (np.arange(spare) + 0.5) / max(spare, 1)
    return (
        np.concatenate([poles, 0.5 * np.exp(1j * angles)]),
        np.concatenate([weights, np.zeros(spare)]),
    )


def distill_filter(
    filter: Float[Array, "T D"],
    modes: int,
    *,
    steps: int = 1000,
    learning_rate: float = 1e-2,
) -> ModalFit:
    """Fits a modal state space to the filter of every channel: its poles and residues.

        minimise  sum_t |h_t - Re sum_n R_n lambda_n^(t-1)|^2   over lambda = r e^(i theta) and R

    From a balanced truncation (`initial_modes`) on, Adam with a cosine schedule lowers the squared
    error of poles in polar form and residues, and the best iterate of each channel is kept. By
    Parseval the error over frequencies (the paper's other objective) is the same number. Tap 0 is
    kept as it is. `ops.hankel_singular_values` and `ops.hankel_order` say how many modes it needs.

    Args:
      filter: taps h_0, h_1, .. of each channel.
      modes: N, complex modes per channel: an order of 2 N.
      steps: of Adam; 0 leaves the truncation as it is.
      learning_rate: at the start.

    Returns:
      The fit, in the dtype of filter.

    Raises:
      ValueError: a filter that is not [T, D] with four taps or more, fewer than one mode.

    Example:
      >>> import jax.numpy as jnp
      >>> taps = 0.9 ** jnp.arange(20.0)[:, None]
      >>> bool(distill_filter(taps, 1, steps=0).error[0] < 1e-4)
      True

    Reference: laughing-hyena
    """
    require(
        filter.ndim == 2 and filter.shape[0] >= 4,
        f"filter has shape {filter.shape}; expected [T, D] with at least four taps.",
    )
    require(modes >= 1, f"modes={modes}; expected at least 1.")
    exact = np.asarray(filter, np.float64)
    found = [initial_modes(taps, modes) for taps in exact[1:].T]
    poles, weights = (np.stack(parts) for parts in zip(*found))
    start = {
        "log_magnitude": np.log(np.maximum(np.abs(poles), 1e-8)),
        "angle": np.angle(poles),
        "residue": np.stack([weights.real, weights.imag], -1),
    }
    start = {name: jnp.asarray(value, filter.dtype) for name, value in start.items()}
    if steps:
        best, error = _refine(start, filter[1:], steps, learning_rate)
    else:
        best, (error, _) = start, _errors(start, filter[1:])
        error = jnp.sqrt(error)
    return ModalFit({**best, "D": filter[0]}, error)


def _errors(parameters, taps):
    """Squared relative errors, and the parameters with their poles kept inside the circle."""
    norm = jnp.linalg.norm(taps, axis=0)
    bounded = {**parameters, "log_magnitude": jnp.minimum(parameters["log_magnitude"], 0)}
    fitted = ops.modal_ssm_filter(**bounded, length=taps.shape[0] + 1)[1:]
    difference = (fitted - taps) / jnp.where(norm == 0, 1, norm)[None]
    return jnp.sum(difference**2, axis=0), bounded


@functools.partial(jax.jit, static_argnames=("steps",))
def _refine(start, taps, steps, learning_rate):
    """The best parameters of each channel on the way, and their errors."""
    scale = jnp.linalg.norm(taps, axis=0)
    scale = jnp.where(scale == 0, 1, scale)
    optimizer = optax.adam(optax.cosine_decay_schedule(1.0, max(steps, 1)))

    def keep(best, parameters):
        values, least = best
        found, bounded = _errors(parameters, taps)
        better = found < least

        def choose(new, old):
            return jnp.where(better.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

        return jax.tree.map(choose, bounded, values), jnp.minimum(found, least)

    def step(carry, _):
        parameters, moments, best = carry
        gradients = jax.grad(lambda p: _errors(p, taps)[0].sum())(parameters)
        updates, moments = optimizer.update(gradients, moments)
        # residues move in proportion to their size
        updates = {**updates, "residue": updates["residue"] * scale[:, None, None]}
        rate = jnp.asarray(learning_rate, taps.dtype)
        parameters = jax.tree.map(lambda p, u: p + rate * u, parameters, updates)
        return (parameters, moments, keep(best, parameters)), None

    best = (start, _errors(start, taps)[0])
    (_, _, (best, least)), _ = jax.lax.scan(
        step, (start, optimizer.init(start), best), length=steps
    )
    return best, jnp.sqrt(least)
