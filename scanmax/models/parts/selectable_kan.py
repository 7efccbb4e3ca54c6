"""Layers of Kolmogorov and Arnold that choose their functions among several kinds, node by node.

A layer is trained with all kinds, weighed; then on fewer, by another `selection` of the same
parameters; then `prune_selection` leaves to every node the kind that it chose, and training goes
on. How the paper makes its weights of what it learns could not be had, nor code of it: they are a
softmax here, of every input, whose data a node's functions read; the fields name other readings.

Reference: s-kan
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError, suggest
from scanmax.models.layers import partitioned
from scanmax.models.parts.kan import Basis, KanConv, KanDense, coefficient_init

# What has a choice of its own: the whole layer, an input, an output, or each of their edges.
NODES = ("layer", "inputs", "outputs", "edges")
POOL = ("bspline", "radial", "chebyshev", "mexican_hat")


class _Selectable(nn.Module):
    """What the dense layer and the convolution share."""

    features: int
    bases: tuple[str, ...] = POOL
    basis_options: Mapping[str, Mapping[str, Any]] | None = None
    nodes: str = "inputs"
    selection: str = "softmax"
    temperature: float = 1.0
    threshold: float = 0.5
    base: str | None = "silu"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.nowrap
    def check_fields(self) -> None:
        """Refuses names that are none."""
        if self.nodes not in NODES:
            raise UserError(f"unknown nodes {self.nodes!r}; {suggest(self.nodes, NODES)}")
        # The window of "shannon" asks for the place of a channel among all of them.
        if not self.bases or len(set(self.bases)) < len(self.bases) or "shannon" in self.bases:
            raise UserError(f"bases={self.bases}; expected names once each, and not 'shannon'.")
        for name in self.basis_options or {}:
            if name not in self.bases:
                raise UserError(f"basis_options of {name!r}; {suggest(name, self.bases)}")

    @nn.nowrap
    def weights(self, scores: Float[Array, "I P M"]) -> Float[Array, "I P M"]:
        """What every kind counts, of the scores."""
        return ops.selection_weights(
            scores,
            selection=self.selection,
            temperature=self.temperature,
            threshold=self.threshold,
        )

    @nn.nowrap
    def functions(
        self, x: Float[Array, "... D"], taps: tuple[int, ...], axes: tuple[str, str]
    ) -> tuple[Float[Array, "... D N"], Float[Array, "*K D N O"]]:
        """The functions of all kinds side by side, and their coefficients, weighed."""
        self.check_fields()
        dim, dtypes = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        bases, coefficients = [], []
        for name in self.bases:
            options = dict((self.basis_options or {}).get(name, {}))
            bases.append(Basis(name, **options, **dtypes, name=f"basis_{name}")(x))
            count = bases[-1].shape[-1]
            init = partitioned(
                coefficient_init(name, int(np.prod(taps)) * dim * count),
                (None,) * len(taps) + (axes[0], None, axes[1]),
                tuple(range(-3 - len(taps), -1)),
                (-1,),
            )
            shape = (*taps, dim, count, self.features)
            c = self.param(f"coefficients_{name}", init, shape, self.param_dtype)
            coefficients.append(c.astype(self.dtype))
        # Equal at first, and of sum 1.
        start = 1 / len(self.bases) if self.selection == "free" else 0.0
        init = partitioned(nn.initializers.constant(start), (None,) * 3)
        inputs = dim if self.nodes in ("inputs", "edges") else 1
        outputs = self.features if self.nodes in ("outputs", "edges") else 1
        scores = self.param("scores", init, (inputs, outputs, len(self.bases)), self.param_dtype)
        weights = self.weights(scores.astype(self.dtype))
        return jnp.concatenate(bases, -1), ops.select_functions(coefficients, weights)


class SelectableKanDense(_Selectable):
    """y_o = sum_d w_do b(x_d) + sum_m s_dom sum_n c_mdno B_mn(x_d): kinds m weighed by s.

    Attributes:
      features: outputs.
      bases: the kinds of functions, each a name of BASES but "shannon".
      basis_options: for any of these names, fields of its `Basis`.
      nodes: what has scores of its own, a name of NODES.
      selection: how scores become s, "softmax", "gated", "hard" or "free" as in
        `ops.selection_weights`; layers of any selection have the same parameters. All kinds start
        with the same share.
      temperature, threshold: of the selection.
      base: b, as in `KanDense`; None leaves it out.

    Reference: s-kan
    """

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        x = x.astype(self.dtype)
        basis, coefficients = self.functions(x, (), ("embed", "mlp"))
        weight = None
        if self.base is not None:
            init = partitioned(nn.initializers.xavier_normal(), ("embed", "mlp"), (-2,), (-1,))
            shape = (x.shape[-1], self.features)
            weight = self.param("base", init, shape, self.param_dtype).astype(self.dtype)
        return ops.kan_linear(x, basis, coefficients, weight, base=self.base or "identity")


class SelectableKanConv(_Selectable):
    """A convolution whose taps are functions of kinds that are chosen, on maps [B, Y, X, C].

    Attributes:
      features, bases, basis_options, nodes, selection, temperature, threshold, base: as in
        `SelectableKanDense`; a choice is of channels, the same at every tap.
      kernel_size, stride, padding, dilation: as in `Conv`.

    Reference: s-kan
    """

    kernel_size: int | tuple[int, int] = 3
    stride: int | tuple[int, int] = 1
    padding: str | int | tuple[tuple[int, int], tuple[int, int]] = "SAME"
    dilation: int | tuple[int, int] = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B U V F"]:
        x, size = x.astype(self.dtype), self.kernel_size
        size = (size, size) if isinstance(size, int) else size
        basis, coefficients = self.functions(x, size, ("conv_in", "conv_out"))
        kernel = None
        if self.base is not None:
            axes = (None, None, "conv_in", "conv_out")
            init = partitioned(nn.initializers.lecun_normal(), axes, (-4, -3, -2), (-1,))
            shape = (*size, x.shape[-1], self.features)
            kernel = self.param("base", init, shape, self.param_dtype).astype(self.dtype)
        return ops.kan_conv2d(
            x,
            basis,
            coefficients,
            kernel,
            base=self.base or "identity",
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )


class Kind(NamedTuple):
    """The edges of a layer whose functions are of one kind.

    Attributes:
      layer: a `KanDense` or `KanConv` over them.
      inputs, outputs: which of the whole layer's.
    """

    layer: KanDense | KanConv
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class ChosenKan(nn.Module):
    """Layers of one kind each, over their own inputs and outputs of a whole.

    Attributes:
      features: outputs.
      kinds: of `prune_selection`.

    Reference: s-kan
    """

    features: int
    kinds: tuple[Kind, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        y = None
        for kind in self.kinds:
            own = kind.layer.clone(name=kind.layer.basis, parent=self)
            part = own(x[..., np.array(kind.inputs)])
            if y is None:
                y = jnp.zeros((*part.shape[:-1], self.features), part.dtype)
            y = y.at[..., np.array(kind.outputs)].add(part)
        return y


def prune_selection(
    layer: SelectableKanDense | SelectableKanConv, variables: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """A layer whose every node has the one kind of functions that it weighs most.

    That weight goes into the coefficients: a layer of "hard" selection gives what it gave before,
    another what this kind added to it. What nobody chose is gone, scores too.

    Args:
      layer: what was trained.
      variables: its own, with "params", and "batch_stats" where there are splines.

    Returns:
      A `KanDense` or `KanConv` where all chose one kind, else a `ChosenKan`; and its variables,
      unboxed.

    Reference: s-kan
    """
    layer.check_fields()
    variables = nn.unbox(variables)
    params = variables["params"]
    weights = layer.weights(params["scores"])
    some = params[f"coefficients_{layer.bases[0]}"]
    edges = np.broadcast_to(
        np.asarray(jnp.argmax(jnp.abs(weights), -1)), (some.shape[-3], some.shape[-1])
    )
    kinds, found = [], {}
    for m, name in enumerate(layer.bases):
        chosen = edges == m
        inputs, outputs = np.flatnonzero(chosen.any(1)), np.flatnonzero(chosen.any(0))
        if not len(inputs):
            continue
        inner = chosen[np.ix_(inputs, outputs)]
        only = {"edges": None if inner.all() else tuple(map(tuple, inner.tolist()))}
        kinds.append(
            Kind(_layer_of(layer, name, len(outputs), only), *map(_numbers, (inputs, outputs)))
        )
        found[name] = _variables_of(layer, variables, name, m, weights, inputs, outputs)
    if len(kinds) == 1:
        return kinds[0].layer, found[kinds[0].layer.basis]
    whole = {
        part: {name: own[part] for name, own in found.items() if part in own}
        for part in ("params", "batch_stats")
    }
    return ChosenKan(layer.features, tuple(kinds)), {k: v for k, v in whole.items() if v}


def _numbers(places: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(place) for place in places)


def _layer_of(layer, name: str, features: int, more: Mapping[str, Any]) -> KanDense | KanConv:
    """A layer of one kind, with the fields of the one that chose it."""
    fields = dict(more)
    fields |= {"basis": name, "basis_options": (layer.basis_options or {}).get(name)}
    fields |= {key: getattr(layer, key) for key in ("base", "dtype", "param_dtype")}
    if isinstance(layer, SelectableKanDense):
        return KanDense(features, learn_scale=False, **fields)
    window = ("kernel_size", "stride", "padding", "dilation")
    return KanConv(features, **{key: getattr(layer, key) for key in window}, **fields)


def _variables_of(layer, variables, name, m, weights, inputs, outputs) -> dict[str, Any]:
    """What a layer of one kind has, over its inputs and outputs."""

    def block(leaf, axis):
        return jnp.take(jnp.take(leaf, inputs, axis), outputs, -1)

    params = variables["params"]
    weighed = ops.select_functions([params[f"coefficients_{name}"]], weights[..., m : m + 1])
    own = {"params": {"coefficients": block(weighed, -3)}}
    if "base" in params:
        own["params"]["base"] = block(params["base"], -2)
    for part in ("params", "batch_stats"):
        basis = variables.get(part, {}).get(f"basis_{name}")
        if basis is not None:
            # Gram's weights are of all inputs; what else a basis has is of each.
            own.setdefault(part, {})["basis"] = {
                key: leaf if leaf.ndim == 1 else jnp.take(leaf, inputs, 0)
                for key, leaf in basis.items()
            }
    return own
