"""Small tasks on sequences, drawn from a numpy generator: what claims about attention train on."""

import numpy as np


def match3(
    rng: np.random.Generator, batch_size: int, length: int, modulus: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, and for each whether two of the sequence complete it to 0 modulo `modulus`.

    Args:
      rng: draws the numbers uniformly.
      batch_size: how many sequences.
      length: numbers per sequence.
      modulus: they lie in 0 .. modulus - 1.

    Returns:
      (numbers int32 [batch, length], labels bool [batch, length]); label i says that there are j
      and k, not necessarily different from i or each other, with x_i + x_j + x_k = 0 mod modulus.

    Example:
      >>> numbers, labels = match3(np.random.default_rng(0), 1, 4, 10)
      >>> numbers[0].tolist(), labels[0].tolist()
      ([8, 6, 5, 2], [True, True, False, True])
    """
    numbers = rng.integers(0, modulus, (batch_size, length), dtype=np.int32)
    present = np.zeros((batch_size, modulus), bool)
    np.put_along_axis(present, numbers, True, 1)
    # which remainders two numbers of the sequence sum to
    pairs = (numbers[:, :, None] + numbers[:, None, :]).reshape(batch_size, -1) % modulus
    sums = np.zeros((batch_size, modulus), bool)
    np.put_along_axis(sums, pairs, True, 1)
    return numbers, np.take_along_axis(sums, (-numbers) % modulus, 1)


def linear_regression(
    rng: np.random.Generator, batch_size: int, length: int, dim: int, noise: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of in-context linear regression: y = x . beta + noise, a beta per prompt.

    Covariates are N(0, I), beta is N(0, I / dim), so that x . beta has variance one.

    Args:
      rng: draws covariates, coefficients and noise.
      batch_size: how many prompts.
      length: examples per prompt, before the query.
      dim: of the covariates.
      noise: variance of what is added to each response, the query's too.

    Returns:
      (x float32 [batch, length + 1, dim], y float32 [batch, length + 1]); the last is the query.
    """
    x = rng.standard_normal((batch_size, length + 1, dim), np.float32)
    beta = rng.standard_normal((batch_size, dim), np.float32) / np.float32(np.sqrt(dim))
    errors = rng.standard_normal((batch_size, length + 1), np.float32)
    return x, np.einsum("bld,bd->bl", x, beta) + np.float32(np.sqrt(noise)) * errors
