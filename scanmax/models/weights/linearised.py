"""State-space mixers that start from attention: its values, keys and queries are x, B and C.

y_t = C_t^T sum_s a_ts B_s (x) x_s is linear attention of queries C, keys B and values x, so that a
trained attention gives a state-space mixer of as many channels its projections. What attention has
not, the gate, the step sizes, the short convolution, starts afresh.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

from scanmax.models.weights.table import Shape

_JOINT = re.compile(r"(?P<mixer>(?:.*/)?mixer)/in_proj/kernel")


@dataclasses.dataclass(frozen=True)
class Scan:
    """A mixer whose sizes are those of an attention of as many heads.

    Attributes:
      mixer: its path.
      shape: of its joint projection, [D, z x B C dt].
      heads: how many.
      inner: channels of z, x, B and C each.
    """

    mixer: str
    shape: Shape
    heads: int
    inner: int

    def attention(self) -> dict[str, Shape]:
        """Paths and shapes of the attention that it may start from."""
        heads = (self.heads, self.inner // self.heads)
        return {
            f"{self.mixer}/qkv/kernel": (self.shape[0], 3, *heads),
            f"{self.mixer}/qkv/bias": (3, *heads),
            f"{self.mixer}/out/kernel": (*heads, self.shape[0]),
            f"{self.mixer}/out/bias": (self.shape[0],),
        }


def scans(shapes: Mapping[str, Shape]) -> list[Scan]:
    """The mixers of a model that a map exists for: inner width and states are attention's width."""
    found = []
    for path, shape in shapes.items():
        match = _JOINT.fullmatch(path)
        if match is None or f"{match['mixer']}/A_log" not in shapes:
            continue
        heads = shapes[f"{match['mixer']}/A_log"][0]
        inner = shapes[f"{match['mixer']}/out_proj/kernel"][0]
        if shape[1] == 4 * inner + heads and inner % heads == 0:
            found.append(Scan(match["mixer"], shape, heads, inner))
    return found


Overlay = Callable[[np.ndarray], np.ndarray]


def start_scan(
    scan: Scan, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> dict[str, Overlay]:
    """For each array that attention has something of, what puts it into the array as drawn.

    Args:
      scan: the mixer.
      arrays: attention's, by `Scan.attention`; empty where the source has none.
      shapes: of the model's arrays.
    """
    found: dict[str, Overlay] = {}
    if f"{scan.mixer}/qkv/kernel" not in arrays:
        return found
    for leaf in ("kernel", "bias"):
        joint, out = (f"{scan.mixer}/{name}/{leaf}" for name in ("in_proj", "out_proj"))
        qkv, back = (arrays.get(f"{scan.mixer}/{name}/{leaf}") for name in ("qkv", "out"))
        if qkv is not None and joint in shapes:
            found[joint] = _columns(scan, qkv.reshape(*shapes[joint][:-1], 3, scan.inner))
        if back is not None and out in shapes:
            found[out] = _whole(back.reshape(shapes[out]))
    return found


def _columns(scan: Scan, qkv: np.ndarray) -> Overlay:
    def put(drawn: np.ndarray) -> np.ndarray:
        mixed = np.array(drawn)
        # Behind the gate: x, B, C.
        for place, which in enumerate((2, 1, 0), 1):
            mixed[..., place * scan.inner : (place + 1) * scan.inner] = qkv[..., which, :]
        return mixed

    return put


def _whole(array: np.ndarray) -> Overlay:
    return lambda drawn: array
