"""What every token mixer shares: its fields, its signature, its state."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.models.layers import Conv, Dense, fan_in_uniform, normal_init, partitioned
from scanmax.ops.contract import axis_devices

# Longer sequences than this do not sow their matrix over tokens.
MAX_SOWN_TOKENS = 1024


class Mixer(nn.Module):
    """Base of token mixers: `Mixer(heads=H)(x [B, T, D], grid=(Y, X) or None, train=False)`.

    The first `prefix_tokens` of the T tokens (class, distillation) lie outside the grid, the others
    are its rows one after another. A causal mixer that can generate takes `state=` and then
    returns (y, state); `init_state` makes the empty one, and one token at a time or many give the
    same outputs. A causal mixer that `packs` takes `segment_ids=` [B, T] for rows that hold several
    sequences: where the number changes a new one starts, and nothing passes. A state given with
    them is an empty one, and what comes out is that of the last: rows padded on the left are such.

    Attributes:
      heads: number of heads.
      prefix_tokens: leading tokens outside the grid.
      is_causal: token t reads tokens up to t only.
      use_bias: biases in the projections.

    A class says what it is, for `scanmax.mixer_info`, the gallery and the command line: `formula`
    in one line, `cost` in the tokens T, `papers` by their ids, `causal_form` where it takes
    `is_causal=True`.
    """

    formula: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    causal_form: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ()
    packs: ClassVar[bool] = False
    heads: int
    prefix_tokens: int = 0
    is_causal: bool = False
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> Any:
        """The state before the first token, for at most `length` tokens of width `dim`."""
        raise NotImplementedError(f"{type(self).__name__} cannot generate token by token.")

    @nn.nowrap
    def packed(self, segment_ids: Int[Array, "B T"] | None, state: Any) -> dict[str, Array]:
        """What tells an op that sequences are packed: its keyword, or nothing."""
        if segment_ids is None:
            return {}
        if not self.is_causal:
            raise ValueError(f"{type(self).__name__}: segment_ids are of causal sequences.")
        return {"segment_ids": segment_ids}

    @nn.nowrap
    def dense(
        self,
        features: int | tuple[int, ...],
        axes: tuple[str | None, ...],
        name: str,
        use_bias: bool | None = None,
        **options: Any,
    ) -> Dense:
        """A linear map in the mixer's dtypes; None has a bias where the mixer has."""
        use_bias = self.use_bias if use_bias is None else use_bias
        options |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Dense(features, axes, use_bias=use_bias, name=name, **options)

    @nn.nowrap
    def head_dim(self, width: int) -> int:
        """Width of a head."""
        if width % self.heads:
            raise ValueError(f"{type(self).__name__}: heads={self.heads} do not divide {width}.")
        return width // self.heads

    @nn.nowrap
    def grid_or_line(
        self, x: Float[Array, "B T D"], grid: tuple[int, int] | None
    ) -> tuple[int, int]:
        """The grid of the tokens behind the prefix; without one they lie on a line."""
        tokens = x.shape[1] - self.prefix_tokens
        grid = grid or (1, tokens)
        if grid[0] * grid[1] != tokens:
            raise ValueError(
                f"x has shape {x.shape} with {self.prefix_tokens} prefix tokens; "
                f"expected {grid[0]} * {grid[1]} tokens behind them."
            )
        return grid

    @nn.nowrap
    def beside_prefix(
        self, values: Float[Array, "B T D"], y: Float[Array, "B M D"]
    ) -> Float[Array, "B T D"]:
        """y, what has been made of the map behind the prefix, with the prefix before it.

        For mixers of maps, where prefix tokens have no place: each reads the mean of all values,
        and every pixel adds theirs by a learned weight each.
        """
        prefix, (batch, _, dim) = self.prefix_tokens, values.shape
        if not prefix:
            return y
        init = partitioned(normal_init, (None,))
        weights = self.param("prefix", init, (prefix,), self.param_dtype).astype(self.dtype)
        added = jnp.einsum("p,bpd->bd", weights, values[:, :prefix])[:, None]
        mean = jnp.broadcast_to(values.mean(1, keepdims=True), (batch, prefix, dim))
        return jnp.concatenate([mean, y + added], axis=1)

    @nn.nowrap
    def sow_attention(self, tokens: int, matrix: Callable[[], Array]) -> None:
        """Sows the matrix over tokens, skips left out; it costs nothing where nobody collects."""
        if self.is_mutable_collection("intermediates") and tokens <= MAX_SOWN_TOKENS:
            self.sow("intermediates", "attention", matrix())

    @nn.nowrap
    def sow_projections(
        self,
        queries: Float[Array, "B T H K"],
        keys: Float[Array, "B T G K"],
        values: Float[Array, "B T G V"],
    ) -> None:
        """Sows what attention reads, under these names."""
        for name, x in (("queries", queries), ("keys", keys), ("values", values)):
            self.sow("intermediates", name, x)


class MapMixer(Mixer):
    """Base of mixers of maps: a class says in `mixed` what the pixels become.

    Prefix tokens have no place on a map: `beside_prefix` says what they read.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.is_causal:
            raise ValueError(f"{type(self).__name__} has no causal form: it reads whole maps.")
        x, (batch, _, dim) = x.astype(self.dtype), x.shape
        grid = self.grid_or_line(x, grid)
        maps = x[:, self.prefix_tokens :].reshape(batch, *grid, dim)
        return self.beside_prefix(x, jax.lax.collapse(self.mixed(maps, train), 1, 3))

    @nn.nowrap
    def mixed(self, maps: Float[Array, "B Y X D"], train: bool) -> Float[Array, "B Y X D"]:
        """The values of the pixels."""
        raise NotImplementedError

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def depthwise(
        self, channels: int, size: int | tuple[int, int], name: str, use_bias: bool | None = None
    ) -> Conv:
        """A depthwise convolution that keeps the size, as torch starts it."""
        use_bias = self.use_bias if use_bias is None else use_bias
        return Conv(
            channels,
            size,
            groups=channels,
            use_bias=use_bias,
            kernel_init=fan_in_uniform(),
            name=name,
            **self.dtypes,
        )


def splits_tokens() -> bool:
    """Whether the mesh of `jax.set_mesh` splits tokens over several devices of a `context` axis."""
    return axis_devices(jax.sharding.get_abstract_mesh(), "context") > 1


def filter_past(x: Float[Array, "B T C"], kernel, bias, state, **options: Any):
    """`ops.causal_conv1d` of whole sequences, or from a state on: (y, next state)."""
    if state is not None and x.shape[1] == 1:
        y, state = ops.causal_conv1d_step(state, x[:, 0], kernel, bias, **options)
        return y[:, None], state
    return ops.causal_conv1d(x, kernel, bias, initial_state=state, return_state=True, **options)
