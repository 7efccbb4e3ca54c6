"""The two passes that an operator is measured in, forward and training, beside its peers."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.harness import Row, jax_contender, to_torch, torch_contender


def normal(*shapes: Sequence[int], scale: float = 1.0, seed: int = 0) -> list[np.ndarray]:
    """Float32 arrays of normal numbers, the same each time."""
    rng = np.random.default_rng(seed)
    return [(scale * rng.normal(size=shape)).astype(np.float32) for shape in shapes]


def with_gradients(function: Callable, count: int | None = None) -> Callable:
    """(*arrays, cotangent) -> (y, gradients of the first `count` arrays, by default all)."""

    def value_and_gradients(*given):
        *arrays, cotangent = given
        end = len(arrays) if count is None else count
        y, pull_back = jax.vjp(lambda *x: function(*x, *arrays[end:]), *arrays[:end])
        return y, *pull_back(cotangent)

    return value_and_gradients


def torch_passes(
    function: Callable, arrays: Sequence[np.ndarray], cotangent: np.ndarray, tensors=to_torch
) -> tuple[Callable, Callable]:
    """The forward pass of a function of tensors, and the one with all gradients."""
    import torch

    inputs = [tensors(x).requires_grad_() for x in arrays]
    cotangent = tensors(cotangent)

    def forward():
        with torch.no_grad():
            return function(*inputs)

    def training():
        y = function(*inputs)
        gradients = torch.autograd.grad(y, inputs, cotangent, allow_unused=True)
        unused = (torch.zeros_like(x) if g is None else g for g, x in zip(gradients, inputs))
        return y, *unused

    return forward, training


def heads_first(array):
    """A tensor [B, H, T, K] of an array [B, T, H, K]."""
    return to_torch(array).transpose(1, 2).contiguous()


def op_rows(
    title: str,
    ours: Callable,
    arrays: Sequence[Any],
    *,
    jax_peers: Mapping[str, Callable] | None = None,
    torch_peers: Mapping[str, Callable] | None = None,
    tensors: Callable = to_torch,
    training: bool = True,
    name: str = "scanmax",
    tolerance: float = 1e-4,
    reference: Any = "first peer",
) -> Iterator[Row]:
    """Rows "TITLE, forward" and "TITLE, training" (the output and the gradients of all arrays).

    Args:
      title: names the operator and the shape.
      ours: a function of the arrays with one array as result.
      arrays: float arrays.
      jax_peers: functions of the same arrays by name, compiled; the first is the reference.
      torch_peers: functions of tensors by name, run eagerly.
      tensors: makes a tensor of an array: `to_torch`, or `heads_first`.
      training: whether there is a row for it.
      name: of our contender.
      tolerance: relative RMS to the reference.
      reference: None where the peers compute something else at the same cost.
    """
    arrays = [np.asarray(x) for x in arrays]
    shape = jax.eval_shape(ours, *arrays).shape
    (cotangent,) = normal(shape, seed=1)
    passes = {
        peer: torch_passes(function, arrays, cotangent, tensors)
        for peer, function in (torch_peers or {}).items()
    }

    def back(x):
        return x.detach().transpose(1, 2) if tensors is heads_first else x.detach()

    for index, (label, wrap, given) in enumerate(
        (
            ("forward", lambda function: function, arrays),
            ("training", with_gradients, [*arrays, cotangent]),
        )[: 1 + training]
    ):
        peers = [jax_contender(peer, wrap(f), *given) for peer, f in (jax_peers or {}).items()]
        for peer, calls in passes.items():
            result = functools.partial(jax.tree.map, back)
            peers.append(torch_contender(peer, calls[index], result=result))
        own = jax_contender(name, wrap(ours), *given)
        yield Row(f"{title}, {label}", own, peers, tolerance, reference)
