"""The pre-norm residual block and its repetition: plain, rematerialised, or scanned over layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax.errors import UserError, suggest
from scanmax.models.layers import (
    Affine,
    Conv,
    DropPath,
    LayerNorm,
    LayerScale,
    Mlp,
    RmsNorm,
    fan_in_uniform,
)
from scanmax.models.mixers import MIXERS, create_mixer, options_of
from scanmax.models.parts.channel_attention import create_channel_attention
from scanmax.models.parts.experts import ExpertMlp
from scanmax.models.parts.group_norm import GroupNorm
from scanmax.models.parts.length_norm import LengthNorm
from scanmax.models.taps import tap
from scanmax.ops.contract import platform
from scanmax.ops.keeping import kept, what_is_dear

NORMS = {
    "affine": Affine,
    "group_norm": GroupNorm,
    "layer_norm": LayerNorm,
    "length_norm": LengthNorm,
    "rms_norm": RmsNorm,
}
LN_PLACEMENTS = ("pre", "post", "sandwich")


def create_norm(kind: str, *, epsilon: float, **fields: Any) -> nn.Module:
    """The norm of that name; UserError lists the others. "affine" takes no epsilon."""
    if kind not in NORMS:
        raise UserError(f"unknown norm {kind!r}; {suggest(kind, NORMS)}")
    return NORMS[kind](**fields, **({} if kind == "affine" else {"epsilon": epsilon}))


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)).

    The stream keeps the dtype it comes in, so that a host may carry it in float32.

    Attributes:
      mixer: a name of MIXERS.
      mlp_hidden: width of the MLP; 0 leaves it out.
      mixer_options: for any mixer's name, fields of its module.
      moe: fields of an `ExpertMlp` such as {"num_experts": 8}, which takes the MLP's place; None
        keeps the MLP.
      layer_scale: initial value of the scale of each branch; None leaves it out.
      residual_scale: initial value of the scale of what each branch is added to; None leaves none.
      ln_placement: norms stand before each branch ("pre"), behind its sum with the stream ("post"),
        or before and behind the branch ("sandwich").
      position_conv: side of a depthwise convolution over the grid, added to the stream before
        the mixer and before the MLP, so that mixers without order know positions; 0 leaves it out.
      position_convs: how many of them, 2, or 1 for that before the mixer alone.
      channel_attention: a name of CHANNEL_ATTENTION, a gate of the mixer's branch over the grid
        that leaves prefix tokens as they are; None leaves it out.
      prefix_tokens: leading tokens (class, distillation) outside the grid.
    """

    mixer: str
    heads: int
    mlp_hidden: int
    mixer_options: Mapping[str, Mapping[str, Any]] | None = None
    norm: str = "layer_norm"
    norm_epsilon: float = 1e-6
    activation: str = "gelu"
    gated_mlp: bool = False
    moe: Mapping[str, Any] | None = None
    use_bias: bool = True
    layer_scale: float | None = None
    residual_scale: float | None = None
    ln_placement: str = "pre"
    position_conv: int = 0
    position_convs: int = 2
    channel_attention: str | None = None
    prefix_tokens: int = 0
    is_causal: bool = False
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | Float[Array, ""] | None = None,
        state: Any = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
        segment_ids: Int[Array, "B T"] | None = None,
    ):
        """Returns y [B, T, D], or (y, state) where a state is given."""
        mixer = self.create_mixer(name="mixer")
        given = {"grid": grid} if segment_ids is None else self.packed(mixer, segment_ids)
        given |= self.beside(mixer, x)
        x = self.begin(x, grid, train)
        y = self.normed(x, 1, train)
        if state is None:
            mixed = mixer(y, train=train, **given)
        else:
            mixed, state = mixer(y, train=train, state=state, **given)
        mixed = self.gate_channels(mixed, grid, train)
        mixed = nn.Dropout(self.dropout_rate, deterministic=not train)(mixed)
        x = kept(self.add_branch(x, mixed, 1, drop_path_rate, train))
        x = self.add_mlp(x, drop_path_rate, grid, train)
        x = tap(self, "output", x)
        return x if state is None else (x, state)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes that every layer takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def packed(self, mixer, segment_ids: Int[Array, "B T"]) -> dict[str, Array]:
        """What tells the mixer that rows hold several sequences."""
        if not mixer.packs:
            able = ", ".join(name for name, kind in sorted(MIXERS.items()) if kind.packs)
            raise ValueError(
                f"segment_ids: mixer {self.mixer!r} does not keep packed sequences apart; "
                f"those that do are {able}."
            )
        return {"segment_ids": segment_ids}

    @nn.nowrap
    def beside(self, mixer: nn.Module, x: Float[Array, "B T D"]) -> dict[str, Array]:
        """What the mixer takes besides its normed input, of x as it comes into the block."""
        return {}

    @nn.nowrap
    def begin(self, x: Float[Array, "B T D"], grid, train: bool) -> Float[Array, "B T D"]:
        """What stands before the mixer's branch: its position convolution."""
        return self.add_position_conv(x, grid, 1)

    @nn.nowrap
    def normed(self, x: Float[Array, "B T D"], index: int | str, train: bool):
        """x as branch `index` takes it."""
        if self.ln_placement not in LN_PLACEMENTS:
            known = ", ".join(LN_PLACEMENTS)
            raise UserError(f"ln_placement={self.ln_placement!r} is not one of {known}")
        return x if self.ln_placement == "post" else self.create_norm(index)(x)

    @nn.nowrap
    def create_norm(self, index: int | str) -> nn.Module:
        """The norm before branch `index`."""
        if self.is_causal and self.norm == "group_norm":
            raise UserError("norm='group_norm' reads the whole sequence: causal blocks have others")
        return create_norm(self.norm, epsilon=self.norm_epsilon, name=f"norm{index}", **self.dtypes)

    @nn.nowrap
    def add_branch(self, x, branch: Float[Array, "B T D"], index: int | str, rate, train: bool):
        """x plus a branch, normed, scaled and dropped as the block's fields say."""
        if self.residual_scale is not None:
            scale = LayerScale(self.residual_scale, name=f"residual_scale{index}", **self.dtypes)
            x = scale(x)
        x = x + self.as_added(branch, index, rate, train).astype(x.dtype)
        return self.create_norm(index)(x).astype(x.dtype) if self.ln_placement == "post" else x

    @nn.nowrap
    def as_added(self, branch: Float[Array, "B T D"], index: int | str, rate, train: bool):
        """A branch, normed, scaled and dropped as the block's fields say."""
        if self.ln_placement == "sandwich":
            branch = self.create_norm(f"{index}_behind")(branch)
        if self.layer_scale is not None:
            scale = LayerScale(self.layer_scale, name=f"layer_scale{index}", **self.dtypes)
            branch = scale(branch)
        return DropPath()(branch, rate, train)

    @nn.nowrap
    def add_mlp(self, x: Float[Array, "B T D"], rate, grid, train: bool) -> Float[Array, "B T D"]:
        """x + mlp(norm(x)), behind its position convolution."""
        if not self.has_mlp:
            return x
        x = self.add_position_conv(x, grid, 2)
        y = self.apply_mlp(self.normed(x, 2, train), grid, train)
        return self.add_branch(x, y, 2, rate, train)

    @property
    def has_mlp(self) -> bool:
        """Whether there is an MLP, dense or of experts."""
        if not self.mlp_hidden and self.moe is not None:
            raise UserError("moe takes the place of MLPs; with mlp_ratio=0 there are none")
        return bool(self.mlp_hidden)

    @nn.nowrap
    def apply_mlp(
        self, x: Float[Array, "B T D"], grid, train: bool, name: str = "mlp"
    ) -> Float[Array, "B T D"]:
        """The MLP of x, without norm and residual."""
        kind = Mlp if self.moe is None else ExpertMlp
        mlp = kind(
            self.mlp_hidden,
            activation=self.activation,
            gated=self.gated_mlp,
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
            name=name,
            **(self.moe or {}),
            **self.dtypes,
        )
        return mlp(x, train=train)

    @nn.nowrap
    def add_position_conv(self, x: Float[Array, "B T D"], grid, index: int):
        """x plus its depthwise convolution over the grid; prefix tokens stay as they are."""
        if not self.position_conv or index > self.position_convs:
            return x
        if grid is None:
            raise ValueError("position_conv convolves over a grid; this host has none.")
        conv = Conv(
            x.shape[-1],
            self.position_conv,
            groups=x.shape[-1],
            kernel_init=fan_in_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=f"position_conv{index}",
        )
        prefix, tokens = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        maps = conv(tokens.reshape(x.shape[0], *grid, x.shape[-1])).astype(x.dtype)
        return jnp.concatenate([prefix, tokens + maps.reshape(tokens.shape)], axis=1)

    @nn.nowrap
    def gate_channels(self, x: Float[Array, "B T D"], grid, train: bool):
        """x times the gate of channel_attention over the grid; prefix tokens stay as they are."""
        if self.channel_attention is None:
            return x
        if grid is None:
            raise ValueError("channel_attention gates the maps of a grid; this host has none.")
        gate = create_channel_attention(
            self.channel_attention,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="channel_attention",
        )
        prefix, tokens = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        maps = gate(tokens.reshape(x.shape[0], *grid, x.shape[-1]), train)
        return jnp.concatenate([prefix, maps.reshape(tokens.shape).astype(x.dtype)], axis=1)

    @nn.nowrap
    def create_mixer(self, **fields: Any) -> nn.Module:
        """The mixer of this block; without a name and outside of a module it has no parameters."""
        return create_mixer(
            self.mixer,
            heads=self.heads,
            prefix_tokens=self.prefix_tokens,
            is_causal=self.is_causal,
            use_bias=self.use_bias,
            options=options_of(self.mixer, self.mixer_options),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            **fields,
        )


class ParallelBlock(Block):
    """x plus several mixers of it, then that plus several MLPs of it.

    Each branch has a norm, a scale and a drop path of its own: the parameters and the multiply-adds
    of `parallel` blocks one after another, at the depth of one.

    Attributes:
      parallel: mixers, and MLPs, side by side.

    Reference: three-things-vit
    """

    parallel: int = 2

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | Float[Array, ""] | None = None,
        state: None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        if self.position_conv or self.channel_attention is not None:
            raise UserError("parallel blocks have no position_conv and no channel_attention")
        if self.ln_placement == "post":
            raise UserError("ln_placement='post' norms one sum; parallel blocks add several")
        paths = range(self.parallel)
        y = x
        for path in paths:
            mixer = self.create_mixer(name=f"mixer_{path}")
            mixed = mixer(self.normed(x, f"1_{path}", train), train=train, grid=grid)
            mixed = nn.Dropout(self.dropout_rate, deterministic=not train)(mixed)
            y = self.add_branch(y, mixed, f"1_{path}", drop_path_rate, train)
        x = y
        for path in paths if self.has_mlp else ():
            mixed = self.normed(x, f"2_{path}", train)
            mixed = self.apply_mlp(mixed, grid, train, f"mlp_{path}")
            y = self.add_branch(y, mixed, f"2_{path}", drop_path_rate, train)
        return tap(self, "output", y)


def apply_in_turn(
    block: type[nn.Module],
    layers: Mapping[str, Mapping[str, Any]],
    x: Float[Array, "B T D"],
    rates: float | Sequence[float] | Float[Array, "N"],
    grid: tuple[int, int] | None,
    train: bool,
) -> Float[Array, "B T D"]:
    """Runs blocks of several kinds inside the compact method of a module that a stage repeats.

    Args:
      block: their module.
      layers: the fields of each, by its name.
      x: [B, T, D] tokens.
      rates: drop path rate of each, or one for all.
      grid: passed to every block.
      train: passed to every block.
    """
    if not isinstance(rates, tuple) and not np.ndim(rates):
        rates = (rates,) * len(layers)
    for index, (name, fields) in enumerate(layers.items()):
        x = block(**fields, name=name)(x, _rate(rates[index]), None, grid, train)
    return x


class Turn(nn.Module):
    """Blocks of several kinds, one after the other: what a stage repeats.

    Attributes:
      block: their module.
      layers: the fields of each.
    """

    block: type[nn.Module]
    layers: tuple[Mapping[str, Any], ...]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: float | tuple[float, ...] | Float[Array, "N"] = 0.0,
        state: None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        layers = {f"layer{index}": fields for index, fields in enumerate(self.layers)}
        return apply_in_turn(self.block, layers, x, drop_path_rate, grid, train)


def names_per_block(mixer: str | Sequence[str], depth: int) -> tuple[str, ...]:
    """One mixer name for each of `depth` places, from one name or a tuple of that length."""
    names = (mixer,) * depth if isinstance(mixer, str) else tuple(mixer)
    if len(names) != depth:
        raise UserError(f"mixer={names} has {len(names)} names; expected one or {depth}.")
    return names


def apply_blocks(
    blocks: Sequence[Mapping[str, Any]],
    x: Float[Array, "B T D"],
    rates: Sequence[float | Sequence[float]],
    *,
    states: Any = None,
    grid: tuple[int, int] | None = None,
    train: bool = False,
    segment_ids: Int[Array, "B T"] | None = None,
    remat: bool | str = False,
    scan_layers: bool = False,
    block: type[nn.Module] = Block,
    keep: Sequence[int] = (),
    prefix: str = "block",
):
    """Runs a sequence of blocks inside the compact method of a host.

    Args:
      blocks: the fields of each block.
      x: [B, T, D] tokens, or maps where the block takes them.
      rates: drop path rate of each block, or what it takes for one.
      states: one mixer state per block (stacked where layers are scanned), or None.
      grid: passed to every block.
      train: passed to every block.
      segment_ids: passed to every block where it is not None.
      remat: recompute activations in the backward pass; a string names a jax.checkpoint_policies
        entry that says what is kept.
      scan_layers: one compiled block for all: parameters are stacked under `{prefix}s`, with a
        leading axis "layers", instead of `{prefix}_00`, `{prefix}_01`, ...
      block: module with the signature (x, drop_path_rate, state, grid, train), and segment_ids
        where they are given.
      keep: indices of blocks whose outputs are returned too.
      prefix: name of the blocks in the parameter tree.

    Returns:
      (x, [kept outputs], states): states is None where none were given.

    Raises:
      UserError: an unknown remat policy, or layers to scan that differ.
    """
    if not blocks:
        # A stage may be what shrinks the map alone.
        return x, [], states
    # Arguments count from self: grid and train are static.
    if scan_layers and train and states is None and not remat and platform() == "tpu":
        # All that the loop keeps is written out for every layer, and a TPU waits for its memory.
        remat = what_is_dear
    block = rematerialised(block, remat, static=(4, 5), scanned=scan_layers)
    packed = () if segment_ids is None else (segment_ids,)
    if scan_layers:
        given = (grid, train, *packed)
        return _scan_blocks(block, blocks, x, rates, states, given, keep, prefix)
    kept, new_states = [], []
    for index, fields in enumerate(blocks):
        layer = block(**fields, name=f"{prefix}_{index:02d}")
        if states is None:
            x = layer(x, _rate(rates[index]), None, grid, train, *packed)
        else:
            x, state = layer(x, _rate(rates[index]), states[index], grid, train, *packed)
            new_states.append(state)
        if index in keep:
            kept.append(x)
    return x, kept, None if states is None else tuple(new_states)


def rematerialised(
    module: type[nn.Module],
    remat: bool | str | Callable[..., bool],
    *,
    static: tuple[int, ...] = (2,),
    scanned: bool = False,
) -> type[nn.Module]:
    """The module's class, its activations recomputed in the backward pass where `remat` says so.

    Args:
      module: a class of modules, (x, train) unless `static` says otherwise.
      remat: whether; a string names a jax.checkpoint_policies entry that says what is kept, and a
        function is one.
      static: arguments that are no arrays, counted from self.
      scanned: the module runs inside a scan, where XLA merges nothing anyway.

    Raises:
      UserError: an unknown policy.
    """
    if not remat:
        return module
    policy = remat if callable(remat) else None
    if isinstance(remat, str):
        policies = [name for name in dir(jax.checkpoint_policies) if not name.startswith("_")]
        if remat not in policies:
            raise UserError(f"unknown remat policy {remat!r}; {suggest(remat, policies, 20)}")
        policy = getattr(jax.checkpoint_policies, remat)
    return nn.remat(module, policy=policy, static_argnums=static, prevent_cse=not scanned)


def _rate(rate):
    """None in place of 0, which a rematerialised block would take for a number to draw by."""
    return None if isinstance(rate, float | int) and rate == 0 else rate


def _scan_blocks(block, blocks, x, rates, states, given, keep, prefix):
    if any(fields != blocks[0] for fields in blocks):
        raise UserError("scan_layers=True needs equal blocks; this model mixes several kinds.")
    _, train, *_ = given
    rates = jnp.asarray(rates, x.dtype) if train and np.any(rates) else None

    def body(layer, x, inputs):
        rate, state = inputs
        out = layer(x, rate, state, *given)
        x, state = (out, None) if state is None else out
        return x, (x if keep else None, state)

    collections = ("params", "batch_stats", "intermediates", "losses", "metrics", "taps")
    collections += ("replaced",)
    scanned = nn.scan(
        body,
        variable_axes=dict.fromkeys(collections, 0),
        split_rngs={"params": True, "dropout": True},
        length=len(blocks),
        metadata_params={nn.PARTITION_NAME: "layers"},
        # Nothing is broadcast out of the loop; looking for it traces every block twice.
        check_constancy_invariants=False,
    )
    x, (outputs, states) = scanned(block(**blocks[0], name=f"{prefix}s"), x, (rates, states))
    return x, [jax.tree.map(lambda leaf, i=i: leaf[i], outputs) for i in keep], states


def stack_blocks(params: Mapping[str, Any], prefix: str = "block") -> dict[str, Any]:
    """Parameters of looped blocks in the layout of scanned ones (unboxed arrays).

    >>> stack_blocks({"block_00": {"a": jnp.ones(2)}, "block_01": {"a": jnp.ones(2)}})[
    ...     "blocks"
    ... ]["a"].shape
    (2, 2)
    """
    names = sorted(name for name in params if name.startswith(f"{prefix}_"))
    rest = {name: value for name, value in params.items() if name not in names}
    layers = [params[name] for name in names]

    def stack(*leaves):
        # Arrays of numpy stay such: nothing is compiled for their shapes.
        return (np if isinstance(leaves[0], np.ndarray) else jnp).stack(leaves)

    return rest | {f"{prefix}s": jax.tree.map(stack, *layers)}


def unstack_blocks(params: Mapping[str, Any], prefix: str = "block") -> dict[str, Any]:
    """Inverse of stack_blocks."""
    rest = {name: value for name, value in params.items() if name != f"{prefix}s"}
    stacked = params[f"{prefix}s"]
    depth = jax.tree.leaves(stacked)[0].shape[0]
    for index in range(depth):
        rest[f"{prefix}_{index:02d}"] = jax.tree.map(lambda leaf, i=index: leaf[i], stacked)
    return rest
