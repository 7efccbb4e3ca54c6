"""SMPConv: the names of the authors' checkpoints."""

from collections.abc import Callable

import numpy as np

from scanmax.models.weights.table import (
    KeyTable,
    Row,
    Shape,
    conv,
    linear,
    norm_rows,
    of_shape,
    same,
)

# Mixers and MLPs are counted together, by turns.
_PART = r"stages\.(\d)\.blocks\.(\d+)\."
_POINTS = _PART + r"large_kernel\.smp\.conv\."


def _block(tail: str, half: int = 0) -> Callable[..., str]:
    """A path within a mixer, or (half 1) within an MLP."""

    def path(stage: int, index: int) -> str:
        if index % 2 != half:
            raise IndexError(index)
        return f"stage{stage}_block_{index // 2:02d}/{tail}"

    return path


def _param(tail: str) -> Callable[..., str]:
    return lambda *groups: "params/" + _block(tail)(*groups)


def _layer(number: int, leaf: str) -> Callable[..., str]:
    """pw1 and pw2 are the mixer's in parts of even, the MLP's in those of odd number."""
    mixer = "mixer/in_proj" if number == 1 else "mixer/out_proj"

    def path(stage: int, index: int) -> str:
        half = index % 2
        return _block((f"mlp/fc{number}" if half else mixer) + leaf, half)(stage, index)

    return path


@of_shape(lambda ours: (1, *ours))
def _positions(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[1, P, 2] to [P, 2]: theirs go right and up from what is made, ours down and right from it.

    Their kernel is transposed and turned over, and weighs pixels from the one that it makes; ours
    counts from the pixel that it weighs.
    """
    if x.shape != (1, *shape):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    return np.stack([x[0, :, 1], -x[0, :, 0]], axis=-1)


@of_shape(lambda ours: (1, *ours[::-1]))
def _transposed(x: np.ndarray, shape: Shape) -> np.ndarray:
    """[1, C, P] to [P, C]."""
    if x.shape != (1, *shape[::-1]):
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")
    return x[0].T


def _shrinking(tail: str) -> Callable[..., str]:
    return lambda stage, part: f"downsample{stage + 1}{'' if part else '_expand'}/{tail}"


_DOWN = r"transitions\.(\d)\.([01])\."

TABLE = KeyTable(
    rows=(
        Row(r"stem\.(\d)\.conv\.weight", "params/stem{0}/conv/kernel", conv),
        *norm_rows(r"stem\.(\d)\.bn", "stem{0}/norm"),
        Row(_DOWN + r"conv\.weight", lambda *g: "params/" + _shrinking("conv/kernel")(*g), conv),
        *norm_rows(_DOWN + "bn", _shrinking("norm")),
        *norm_rows(_PART + "prelkb_bn", _block("norm1")),
        *norm_rows(_PART + "preffn_bn", _block("norm2", 1)),
        *(
            row
            for number in (1, 2)
            for row in (
                Row(
                    _PART + rf"pw{number}\.conv\.weight",
                    lambda *g, n=number: "params/" + _layer(n, "/conv/kernel")(*g),
                    conv,
                ),
                *norm_rows(_PART + rf"pw{number}\.bn", _layer(number, "/norm")),
            )
        ),
        Row(_POINTS + r"weight_coord", _param("mixer/points/positions"), _positions),
        Row(_POINTS + r"radius", _param("mixer/points/radius"), same, lead=1, trail=2),
        Row(_POINTS + r"weights", _param("mixer/points/weights"), _transposed),
        # Where the kernel is sampled, which its size says.
        Row(_POINTS + r"kernel_coord", ()),
        *norm_rows(_PART + r"large_kernel\.smp\.bn", _block("mixer/points_norm")),
        Row(
            _PART + r"large_kernel\.small_conv\.conv\.weight",
            _param("mixer/small/conv/kernel"),
            conv,
        ),
        *norm_rows(_PART + r"large_kernel\.small_conv\.bn", _block("mixer/small/norm")),
        *norm_rows("norm", "norm"),
        Row(r"head\.weight", "params/head/kernel", linear),
        Row(r"head\.bias", "params/head/bias"),
    ),
    head=r"params/head/.*",
    stem=r"params/stem0/conv/kernel",
    layouts={"authors": "first"},
)
