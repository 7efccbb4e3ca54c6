"""Mamba on images: one selective scan per direction over the map, merged and gated."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.models.layers import LayerNorm, fan_in_uniform, partitioned
from scanmax.models.mixers.base import Mixer
from scanmax.models.mixers.scan.selective import SelectiveSsm
from scanmax.models.mixers.scan.ssd import Ssd
from scanmax.ops.contract import spread
from scanmax.ops.scan.cross import direction_names

# One module of parameters per direction: the first axis of everything is the direction.
PerDirection = nn.vmap(
    SelectiveSsm,
    variable_axes={"params": 0, "intermediates": 0},
    split_rngs={"params": True},
    methods=["__call__", "matrix"],
    metadata_params={nn.PARTITION_NAME: None},
)


def add_prefix(
    sequences: Float[Array, "B R T C"], first: Float[Array, "B P C"], names: tuple[str, ...]
) -> Float[Array, "R B T C"]:
    """Puts the prefix tokens before each sequence, where reversed behind it, last one first."""
    if not first.shape[1]:
        return jnp.moveaxis(sequences, 1, 0)
    joined = []
    for index, name in enumerate(names):
        y = sequences[:, index]
        parts = [y, first[:, ::-1]] if name.endswith("reversed") else [first, y]
        joined.append(jnp.concatenate(parts, axis=1))
    return jnp.stack(joined)


def split_prefix(
    y: Float[Array, "R B T C"], prefix: int, names: tuple[str, ...]
) -> tuple[Float[Array, "B P C"], Float[Array, "B R T C"]]:
    """The prefix tokens, added over the sequences, and the sequences without them."""
    if not prefix:
        return y[0, :, :0], jnp.moveaxis(y, 0, 1)
    firsts, tokens = [], []
    for name, sequence in zip(names, y):
        length = sequence.shape[1] - prefix
        last = name.endswith("reversed")
        firsts.append(sequence[:, length:][:, ::-1] if last else sequence[:, :prefix])
        tokens.append(sequence[:, :length] if last else sequence[:, prefix:])
    return sum(firsts), jnp.stack(tokens, 1)


def to_sequences(
    x: Float[Array, "B T C"], grid: tuple[int, int], prefix: int, names: tuple[str, ...]
) -> Float[Array, "R B T C"]:
    """Tokens in the order of each direction; prefix tokens first, where reversed last."""
    maps = x[:, prefix:].reshape(x.shape[0], *grid, x.shape[-1])
    return add_prefix(ops.cross_scan(maps, directions=names), x[:, :prefix], names)


def from_sequences(
    y: Float[Array, "R B T C"], grid: tuple[int, int], prefix: int, names: tuple[str, ...]
) -> Float[Array, "B T C"]:
    """The tokens of all directions back in their places, added."""
    first, tokens = split_prefix(y, prefix, names)
    maps = ops.cross_merge(tokens, grid, directions=names)
    return jnp.concatenate([first, jax.lax.collapse(maps, 1, 3)], axis=1)


def sequence_places(grid: tuple[int, int], prefix: int, names: tuple[str, ...]) -> np.ndarray:
    """[R, T]: where each token stands in the sequence of each direction."""
    tokens = prefix + grid[0] * grid[1]
    rows = np.arange(prefix, tokens).reshape(grid)
    places = []
    for name in names:
        order = (rows.T if name.startswith("columns") else rows).reshape(-1)
        order = np.concatenate([np.arange(prefix), order])
        places.append(np.argsort(order[::-1] if name.endswith("reversed") else order))
    return np.stack(places)


def merge_matrices(
    matrices: Float[Array, "R B H T T"], places: np.ndarray
) -> Float[Array, "B H T T"]:
    """The matrix over tokens that all directions apply together."""
    return sum(
        matrix[..., place[:, None], place[None, :]] for matrix, place in zip(matrices, places)
    )


class GatedScan(Mixer):
    """What the selective scans of images share: y = out(mix(x) silu(z)), with x and z from one map.

    Attributes:
      expand: inner width over the model's.
      d_state: N, states of each channel.
      dt_rank: width through which the steps go; None is the model's width / 16, rounded up.
      filter_size: sides, or taps, of the depthwise filter before the scans.
      norm_epsilon: epsilon of the norm before the gate.
    """

    cost: ClassVar[str] = "T"

    expand: float = 2.0
    d_state: int = 16
    dt_rank: int | None = None
    filter_size: int = 3
    norm_epsilon: float = 1e-5

    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError(f"{type(self).__name__} has no causal form: see mixer 'mamba'.")
        return self.gated(x, grid)

    @nn.compact
    def gated(self, x: Float[Array, "B T D"], grid) -> Float[Array, "B T D"]:
        dim, inner = x.shape[-1], int(self.expand * x.shape[-1])
        grid = self.grid_or_line(x, grid)
        u, gate = jnp.split(self.dense(2 * inner, ("embed", "mlp"), "in_proj")(x), 2, axis=-1)
        y = self.mix(u, grid, dim)
        return self.dense(dim, ("mlp", "embed"), "out_proj")(y * jax.nn.silu(gate))

    @nn.nowrap
    def mix(self, x: Float[Array, "B T C"], grid, dim: int) -> Float[Array, "B T C"]:
        """Filter and scans of the inner tokens, of a model of width `dim`."""
        raise NotImplementedError

    @nn.nowrap
    def filter_map(self, x: Float[Array, "B T C"], grid, name: str, size: int, stride: int = 1):
        """Depthwise filter of the map and SiLU; prefix tokens meet only its bias."""
        kernel, bias = self.taps(name, (size, size, 1, x.shape[-1]), size * size)
        prefix, tokens = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        maps = tokens.reshape(x.shape[0], *grid, x.shape[-1])
        maps = ops.depthwise_conv2d(maps, kernel, stride=stride, padding=size // 2)
        y = jnp.concatenate([prefix, jax.lax.collapse(maps, 1, 3)], axis=1)
        return jax.nn.silu(y + spread(bias, y))

    @nn.nowrap
    def filter_sequences(self, x: Float[Array, "R B T C"], shared: bool = False):
        """Causal depthwise filter of each sequence and SiLU."""
        lead = () if shared else x.shape[:1]
        kernel, bias = self.taps("conv", (*lead, self.filter_size, x.shape[-1]), self.filter_size)
        axes = (0, None, None) if shared else (0, 0, 0)
        filtered = jax.vmap(
            lambda x, kernel, bias: ops.causal_conv1d(x, kernel, bias, activation="silu"), axes
        )
        return filtered(x, kernel, bias)

    @nn.nowrap
    def taps(self, name: str, shape: tuple[int, ...], fan_in: int) -> tuple[Array, Array]:
        """Kernel and bias of a depthwise filter over the last axis; three axes: per direction."""
        init = fan_in_uniform(fan_in=fan_in)
        lead = shape[:1] if len(shape) == 3 else ()
        values = []
        for part, size in (("kernel", shape), ("bias", (*lead, shape[-1]))):
            axes = (*(None,) * (len(size) - 1), "mlp")
            inputs = range(len(lead) - len(size), -1) if part == "kernel" else ()
            own = partitioned(init, axes, inputs)
            value = self.param(f"{name}_{part}", own, size, self.param_dtype)
            values.append(value.astype(self.dtype))
        return values[0], values[1]

    @nn.nowrap
    def create_ssm(self, kind: type[nn.Module], dim: int, name: str = "ssm") -> nn.Module:
        """The module of a scan, or of one per direction."""
        return kind(
            heads=self.heads,
            d_state=self.d_state,
            dt_rank=self.dt_rank or -(-dim // 16),
            name=name,
            **self.dtypes,
        )

    @nn.nowrap
    def create_norm(self) -> LayerNorm:
        return LayerNorm(self.norm_epsilon, axis="mlp", name="norm", **self.dtypes)

    @property
    def dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class CrossScan(GatedScan):
    """Selective scans of a map in 1, 2 or 4 directions: y = out(norm(sum_r ssm_r) silu(z)).

    Prefix tokens stand before the map in forward directions, which carry them to every pixel, and
    behind it in reversed ones, where they have read every pixel. The hidden attention is sown as
    the mean over `heads` groups of channels; D, filter and gate are outside of it.

    Attributes:
      directions: 1 (rows), 2 (and back) or 4 (and columns).
      shared: one set of projections and rates for all directions instead of one for each.
      filter_axes: "map" filters the map once, before it is read; "sequence" filters each sequence
        causally, with taps of its own unless `shared`.
      use_norm: LayerNorm of the sum before the gate.
    """

    formula: ClassVar[str] = "y = out(norm(sum_r unread_r(ssm_r(read_r(silu(conv(x)))))) silu(z))"

    directions: int = 4
    shared: bool = False
    filter_axes: str = "map"
    use_norm: bool = True

    @nn.nowrap
    def mix(self, x: Float[Array, "B T C"], grid, dim: int) -> Float[Array, "B T C"]:
        if self.filter_axes not in ("map", "sequence"):
            raise ValueError(f"filter_axes={self.filter_axes!r} is not 'map' or 'sequence'.")
        self.head_dim(x.shape[-1])
        names = direction_names(self.directions)
        if self.filter_axes == "map":
            x = self.filter_map(x, grid, "conv", self.filter_size)
        sequences = to_sequences(x, grid, self.prefix_tokens, names)
        if self.filter_axes == "sequence":
            sequences = self.filter_sequences(sequences, self.shared)
        ssm = self.create_ssm(SelectiveSsm if self.shared else PerDirection, dim)
        y = from_sequences(self.over_directions(ssm, sequences), grid, self.prefix_tokens, names)
        self.sow_attention(
            x.shape[1],
            lambda: merge_matrices(
                self.over_directions(ssm.matrix, sequences),
                sequence_places(grid, self.prefix_tokens, names),
            ),
        )
        return self.create_norm()(y) if self.use_norm else y

    @nn.nowrap
    def over_directions(self, run, sequences: Float[Array, "R B T C"]):
        """run on the sequences of every direction."""
        if not self.shared:
            return run(sequences)
        y = run(jax.lax.collapse(sequences, 0, 2))
        return y.reshape(*sequences.shape[:2], *y.shape[1:])


class MambaFourWay(CrossScan):
    """VMamba's SS2D: a 3x3 filter, four directions with projections of their own, LayerNorm, gate.

    Its published form has no biases but the filter's.
    """

    papers: ClassVar[tuple[str, ...]] = ("mambamixer",)


class MambaBidirectional(CrossScan):
    """Vim's mixer: rows forward and backward, each with its own filter, projections and rates.

    y = out((ssm_f + ssm_b) silu(z)), without a norm. Vim puts its class token into the middle of
    the sequence; here prefix tokens stand at its start, and so are read by every pixel forward and
    read every pixel backward.
    """

    formula: ClassVar[str] = "y = out((ssm_f(conv_f(x)) + flip(ssm_b(conv_b(flip(x))))) silu(z))"
    papers: ClassVar[tuple[str, ...]] = ("hidden-mamba-attention",)

    directions: int = 2
    filter_axes: str = "sequence"
    filter_size: int = 4
    use_norm: bool = False


class Mamba2FourWay(Ssd):
    """The mixer of Mamba-2 over a map in four directions, with shared parameters.

    `ssd` reads rows forward and backward; this one reads columns too. Prefix tokens stand before
    the map in forward directions and behind it in reversed ones.

    Attributes:
      directions: 1 (rows), 2 (and back) or 4 (and columns).
    """

    formula: ClassVar[str] = "y = out(rms(sum_r unread_r(ssd(read_r(silu(conv(x))))) silu(z)))"
    causal_form: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("mamba2-ssd",)
    packs: ClassVar[bool] = False

    directions: int = 4

    @nn.nowrap
    def scan_causal(self, xbc, dt, rates, state, packed):
        raise ValueError("mamba2_four_way has no causal form: see mixer 'mamba2'.")

    @nn.nowrap
    def scan_both(self, xbc, dt, rates, grid=None):
        grid, names = self.grid_or_line(xbc, grid), direction_names(self.directions)
        x, dt = (to_sequences(y, grid, self.prefix_tokens, names) for y in (xbc, dt))
        count, batch, length = dt.shape[:3]
        x, B, C = self.heads_of(jax.lax.collapse(x, 0, 2))
        dt = jax.lax.collapse(dt, 0, 2).astype(rates["A"].dtype)
        options = {"B": B, "C": C, "dt_softplus": True}

        def matrix():
            matrices = ops.ssd_matrix(dt, **options, **{**rates, "D": None})
            matrices = matrices.reshape(count, batch, *matrices.shape[1:])
            return merge_matrices(matrices, sequence_places(grid, self.prefix_tokens, names))

        self.sow_attention(length, matrix)
        y = ops.ssd(x, dt, implementation=self.implementation, **options, **rates)
        y = jax.lax.collapse(y, 2)
        y = y.reshape(count, batch, *y.shape[1:])
        return from_sequences(y, grid, self.prefix_tokens, names)
