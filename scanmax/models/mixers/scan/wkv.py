"""The token mixers of RWKV: in both directions on images, causal on sequences."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax import ops
from scanmax.models.layers import Dense, ones_init, partitioned, zeros_init
from scanmax.models.mixers.base import Mixer
from scanmax.models.statistics import at_least_float32
from scanmax.ops.contract import spread


def mix_init(power: float, layer: int, layers: int, offset: float = 0.0):
    """Initializer of a mixing weight: (d / D)^(power (1 - layer / layers)) + offset."""

    def init(key, shape, dtype):
        ramp = np.arange(shape[-1]) / shape[-1]
        values = ramp ** (power * (1 - layer / layers)) + offset
        return jnp.asarray(np.broadcast_to(values, shape), dtype)

    return init


def ramp_init(low: float, high: float, ratio: float):
    """Initializer of a decay: from low to high, the more slowly the later the layer."""

    def init(key, shape, dtype):
        ramp = np.linspace(0, 1, int(np.prod(shape))) ** (0.7 + 1.3 * ratio)
        return jnp.asarray(low + (high - low) * ramp, dtype).reshape(shape)

    return init


def constant_init(values):
    """Initializer that gives these numbers, in the shape asked for."""

    def init(key, shape, dtype):
        return jnp.asarray(values, dtype).reshape(shape)

    return init


def small_init(key, shape, dtype, bound=1e-4):
    """Uniform in +- bound: where the low-rank maps start."""
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def zigzag(size: int) -> np.ndarray:
    """0, 1, -1, 0, 1, -1, ... over the channels, as the authors' bonuses start."""
    return (np.arange(size) + 1) % 3 - 1.0


class _Rwkv(Mixer):
    """Token shift and parameters that the mixers of RWKV share."""

    packs: ClassVar[bool] = True

    layer: int = 0
    layers: int = 12

    @nn.nowrap
    def ratio(self) -> float:
        """From 0 in the first layer to 1 in the last."""
        return self.layer / max(self.layers - 1, 1)

    @nn.nowrap
    def vector(self, name: str, init, shape) -> Array:
        axes = ("heads", "kv") if len(shape) == 2 else ("embed",)
        return self.param(name, partitioned(init, axes), shape, self.param_dtype)

    @nn.nowrap
    def shifted(self, x, grid, heads: int, before, packed) -> Array:
        """The neighbours of each token; prefix tokens keep themselves, as released."""
        if self.is_causal:
            return ops.token_shift(x, initial_state=before, **packed)
        prefix, tokens = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        if grid is None:
            tokens = ops.token_shift(tokens, heads=heads, is_causal=False)
        else:
            maps = tokens.reshape(x.shape[0], *self.grid_or_line(x, grid), x.shape[-1])
            tokens = ops.quarter_shift(maps, heads=heads).reshape(tokens.shape)
        return jnp.concatenate([prefix, tokens], axis=1)

    @nn.nowrap
    def dense(self, features, axes, name: str, **options) -> Dense:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Dense(features, axes, use_bias=self.use_bias, name=name, **dtypes, **options)


class Wkv(_Rwkv):
    """The mixer of Vision-RWKV and Diffusion-RWKV (Bi-WKV); causal, that of RWKV-4.

        r, k, v = projections of mu x + (1 - mu) shift(x),    y = out(sigmoid(r) * wkv(k, v))

    In both directions over the rows of the image, behind a Q-shift; decay and bonus are divided by
    the number of tokens, so that another image size keeps the decay from end to end. Without a grid
    half of the channels come from either neighbour. Causal: behind a shift by one token,
    log_decay = -exp(decay), the bonus as it is. Prefix tokens are read and read like any other.

    Attributes:
      layer: which of `layers` this is; initial decays and mixing weights depend on it.
      layers: how many there are.
    """

    formula: ClassVar[str] = (
        "y_t = sigmoid(r_t) * sum_s p_s v_s / sum_s p_s,  p_s = e^(k_s - (|t-s| - 1) w / T), "
        "p_t = e^(k_t + u / T)"
    )
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("diffusion-rwkv",)

    use_bias: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        dim, ratio, at = x.shape[-1], self.ratio(), (self.layer, self.layers)
        before, sums = (None, None) if state is None else (state["token"], state["wkv"])
        x = x.astype(self.dtype)
        packed = self.packed(segment_ids, state)
        near = self.shifted(x, grid, 1, before, packed)
        inits = {
            "receptance": mix_init(0.5, *at),
            "key": mix_init(1.0, *at),
            "value": mix_init(1.0, *at, offset=0.3 * ratio),
        }
        projected = []
        for name, init in inits.items():
            mu = spread(self.vector(f"mix_{name}", init, (dim,)).astype(self.dtype), x)
            mixed = mu * x + (1 - mu) * near
            projected.append(self.dense(dim, ("embed", "heads"), name)(mixed))
        receptance, key, value = projected
        exact = at_least_float32(self.dtype)
        # the released ranges: rates e^-5..e^3 per token, or -5..3 over all tokens
        decay = self.vector("decay", ramp_init(-5, 3, ratio), (dim,)).astype(exact)
        first = np.log(0.3) + 0.5 * zigzag(dim)
        bonus = self.vector("bonus", constant_init(first), (dim,)).astype(exact)
        if self.is_causal:
            decay = -jnp.exp(decay)
        else:
            decay, bonus = -decay / x.shape[1], bonus / x.shape[1]
        options = {"is_causal": self.is_causal, **packed}
        self.sow_attention(
            x.shape[1], lambda: self.per_head(ops.wkv_matrix(key, decay, bonus, **options))
        )
        if state is not None and x.shape[1] == 1:
            y, sums = ops.wkv_step(sums, key[:, 0], value[:, 0], decay, bonus)
            y = y[:, None]
        elif state is not None:
            resumed = {"initial_state": sums, "return_state": True}
            y, sums = ops.wkv(key, value, decay, bonus, **resumed, **packed)
        else:
            y = ops.wkv(key, value, decay, bonus, **options)
        y = self.dense(dim, ("heads", "embed"), "out")(jax.nn.sigmoid(receptance) * y)
        return y if state is None else (y, {"token": x[:, -1], "wkv": sums})

    @nn.nowrap
    def per_head(self, matrix):
        """The mean over the channels of each head: a matrix per channel is too many to keep."""
        width = matrix.shape[1] // self.heads
        shape = (matrix.shape[0], self.heads, width, *matrix.shape[2:])
        return matrix.reshape(shape).mean(2)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> dict[str, Array]:
        empty = jnp.zeros((batch_size, 2, dim), at_least_float32(self.dtype))
        return {
            "token": jnp.zeros((batch_size, dim), self.dtype),
            "wkv": empty.at[:, 1].set(-jnp.inf),
        }


class Wkv6(_Rwkv):
    """The mixer of RWKV-6, as RWKV-CLIP has it in both directions; causal, with a state.

        S_t = diag(w_t) S_(t-1) + k_t (x) v_t,   y_t = r_t (S_(t-1) + diag(u) k_t (x) v_t),
        out(norm(y) * silu(g));   r, k, v, g and the decay w_t = exp(-exp(d_t)) from
        x + (shift(x) - x) (mu + tanh((x + (shift(x) - x) mu_x) A) B)

    On a grid behind a Q-shift of the quarters of each head, without one behind the shift of halves
    of the text tower, causal behind a shift by one token. The norm is over each head.

    Attributes:
      layer: which of `layers` this is; initial decays and mixing weights depend on it.
      layers: how many there are.
      mix_rank: rank of the mixing weights that depend on the token.
      decay_rank: rank of the decay's dependence on the token.
      norm_epsilon: of the norm over heads.
      implementation: the backend of whole sequences, "xla" or "pallas", as of `ops.wkv6`; None is
        "xla".
    """

    formula: ClassVar[str] = (
        "S_t = diag(w_t) S_(t-1) + k_t (x) v_t,  y_t = (r_t (S_(t-1) + diag(u) k_t (x) v_t)) * g_t"
    )
    cost: ClassVar[str] = "T"
    causal_form: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("rwkv-clip",)

    use_bias: bool = False
    mix_rank: int = 32
    decay_rank: int = 64
    norm_epsilon: float = 1e-5
    implementation: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
        state: Any = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        dim, width = x.shape[-1], self.head_dim(x.shape[-1])
        before, sums = (None, None) if state is None else (state["token"], state["wkv"])
        x = x.astype(self.dtype)
        packed = self.packed(segment_ids, state)
        near = self.shifted(x, grid, self.heads, before, packed)
        decay, query, key, value, gate = self.inputs(x, near)
        exact = at_least_float32(self.dtype)
        heads = (*x.shape[:2], self.heads, width)
        query, key, value = (part.reshape(heads) for part in (query, key, value))
        log_decay = -jnp.exp(decay.astype(exact)).reshape(heads)
        first = self.ratio() * (1 - np.linspace(0, 1, dim)) + 0.1 * zigzag(dim)
        bonus = self.vector("bonus", constant_init(first), (self.heads, width)).astype(exact)
        arrays = (query, key, value, log_decay)
        options = {"is_causal": self.is_causal, **packed}
        self.sow_attention(
            x.shape[1], lambda: ops.wkv6_matrix(query, key, log_decay, bonus, **options)
        )
        if state is not None and x.shape[1] == 1:
            y, sums = ops.wkv6_step(sums, *(array[:, 0] for array in arrays), bonus)
            y = y[:, None]
        elif state is not None:
            options |= {"initial_state": sums, "return_state": True, "is_causal": True}
            y, sums = ops.wkv6(*arrays, bonus, implementation=self.implementation, **options)
        else:
            y = ops.wkv6(*arrays, bonus, implementation=self.implementation, **options)
        scale = self.vector("norm_scale", ones_init, (self.heads, width)).astype(self.dtype)
        shift = self.vector("norm_bias", zeros_init, (self.heads, width)).astype(self.dtype)
        y = ops.layer_norm(y, epsilon=self.norm_epsilon) * spread(scale, y) + spread(shift, y)
        y = y.reshape(x.shape) * jax.nn.silu(gate)
        y = self.dense(dim, ("heads", "embed"), "out")(y)
        return y if state is None else (y, {"token": x[:, -1], "wkv": sums})

    @nn.nowrap
    def inputs(self, x, near):
        """Decay, receptance, key, value and gate, each from a mixture of its own."""
        dim, ratio, at = x.shape[-1], self.ratio(), (self.layer, self.layers)
        change = near - x

        def own(name, power=1.0, offset=0.0):
            ramp = mix_init(power, *at, offset)(None, (dim,), jnp.float32)
            mu = self.vector(f"mix_{name}", constant_init(1 - ramp), (dim,))
            return spread(mu.astype(self.dtype), x)

        def small(name, shape, axes, inputs=-2):
            init = partitioned(small_init, axes, (inputs,), (-1,))
            return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

        rank = self.mix_rank
        down = small("mix_down", (dim, 5, rank), ("embed", None, None), -3)
        up = small("mix_up", (5, rank, dim), (None, None, "embed"))
        hidden = jnp.tanh(jnp.einsum("btd,dnr->btnr", x + change * own("all"), down))
        added = jnp.einsum("btnr,nrd->nbtd", hidden, up)
        names = {
            "decay": {},
            "key": {},
            "value": {"offset": 0.3 * ratio},
            "receptance": {"power": 0.5},
            "gate": {"power": 0.5},
        }
        mixed = {
            name: x + change * (own(name, **options) + extra)
            for (name, options), extra in zip(names.items(), added)
        }
        down = small("decay_down", (dim, self.decay_rank), ("embed", None))
        up = small("decay_up", (self.decay_rank, dim), (None, "embed"))
        base = self.vector("decay", ramp_init(-6, -1, ratio), (dim,)).astype(self.dtype)
        hidden = jnp.tanh(jnp.einsum("btd,dr->btr", mixed["decay"], down))
        decay = jnp.einsum("btr,rd->btd", hidden, up)
        decay = decay + spread(base, decay)
        projected = [
            self.dense(dim, ("embed", "heads"), name)(mixed[name])
            for name in ("receptance", "key", "value", "gate")
        ]
        return decay, *projected

    @nn.nowrap
    def init_state(self, batch_size: int, length: int, dim: int) -> dict[str, Array]:
        width = self.head_dim(dim)
        return {
            "token": jnp.zeros((batch_size, dim), self.dtype),
            "wkv": jnp.zeros((batch_size, self.heads, width, width), at_least_float32(self.dtype)),
        }


class ChannelMix(_Rwkv):
    """RWKV's MLP: out = sigmoid(receptance(x_r)) value(relu(key(x_k))^2), behind a token shift.

    x_k and x_r mix each token with its neighbours, as the mixers of RWKV do.

    Attributes:
      heads: groups of channels whose quarters a Q-shift moves each another way.
      hidden: width between.
      shares_near: the learned shares are the neighbours', as in RWKV-CLIP's text tower; else the
        token's own, as in its image tower.
      layer: which of `layers` this is; initial shares depend on it.
      layers: how many there are.

    Reference: rwkv-clip, diffusion-rwkv
    """

    use_bias: bool = False
    hidden: int = 0
    shares_near: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        dim = x.shape[-1]
        x = x.astype(self.dtype)
        near = self.shifted(x, grid, self.heads, None, {})
        ramp = mix_init(1.0, self.layer, self.layers)(None, (dim,), jnp.float32)
        first, second = (x, near) if self.shares_near else (near, x)

        def mixed(name):
            init = constant_init(1 - ramp if self.shares_near else ramp)
            share = spread(self.vector(f"mix_{name}", init, (dim,)).astype(self.dtype), x)
            return first + (second - first) * share

        hidden = self.dense(self.hidden, ("embed", "mlp"), "key")(mixed("key"))
        value = self.dense(dim, ("mlp", "embed"), "value")(jnp.square(jax.nn.relu(hidden)))
        gate = self.dense(dim, ("embed", "heads"), "receptance")(mixed("receptance"))
        return jax.nn.sigmoid(gate) * value
