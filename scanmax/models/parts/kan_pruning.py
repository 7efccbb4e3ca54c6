"""Which edges of a KAN matter, a loss that makes few of them matter, nets without the others."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.parts.kan import Basis, KanDense


def edge_norms(
    layer: KanDense, variables: Mapping[str, Any], x: Float[Array, "S D"]
) -> Float[Array, "D O"]:
    """The mean size of what each edge of a layer of splines gives: mean_s |phi_do(x_sd)|.

    Raises:
      UserError: for a layer of another basis.

    Reference: kan
    """
    if layer.basis != "bspline":
        raise UserError(f"basis={layer.basis!r}: edges are weighed for 'bspline'.")
    variables = nn.unbox(variables)
    params, knots = variables["params"], variables["batch_stats"]["basis"]["knots"]
    degree = dict(layer.basis_options or {}).get("degree", Basis.degree)
    basis = ops.bspline_basis(x, knots, degree=degree)
    curves = jnp.einsum("sdn,dno->sdo", basis, params["coefficients"])
    if "scale" in params:
        curves = curves * params["scale"][None]
    if "base" in params:
        bases = {"silu": jax.nn.silu, "gelu": nn.gelu, "identity": lambda x: x}
        curves = curves + bases[layer.base](x)[..., None] * params["base"][None]
    return jnp.mean(jnp.abs(curves), 0)


def edge_sparsity(norms: Float[Array, "D O"], *, entropy: float = 2.0) -> Float[Array, ""]:
    """The sum of a layer's edge norms, and `entropy` times the entropy of their shares.

    The paper's regularisation of a layer: small where few edges give something at all.

    Reference: kan
    """
    total = jnp.sum(norms)
    share = norms / jnp.maximum(total, jnp.finfo(norms.dtype).tiny)
    logs = jnp.where(share > 0, jnp.log(jnp.where(share > 0, share, 1)), 0)
    return total - entropy * jnp.sum(share * logs)


def prune_kan(
    layers: Sequence[KanDense],
    variables: Sequence[Mapping[str, Any]],
    x: Float[Array, "S D"],
    *,
    threshold: float = 0.01,
) -> tuple[list[KanDense], list[dict[str, Any]]]:
    """Layers of splines, one behind another, without the hidden nodes that do not matter.

    A node stays where its largest incoming edge and its largest outgoing one both have a norm
    above the threshold, over the samples x. What is left computes what it did, but for the nodes
    that are gone.

    Args:
      layers: `KanDense`s of splines.
      variables: those of each, with "params" and "batch_stats".
      x: samples that the first layer reads.
      threshold: of an edge's mean size.

    Returns:
      The layers with their widths, and their variables, unboxed.

    Raises:
      UserError: for a layer of another basis, or where no node of a layer would be left.

    Reference: kan
    """
    variables, norms = [nn.unbox(own) for own in variables], []
    for layer, own in zip(layers, variables, strict=True):
        norms.append(edge_norms(layer, own, x))
        x = layer.apply(own, x)
    kept = [jnp.arange(norms[0].shape[0])]
    for index, (before, after) in enumerate(itertools.pairwise(norms)):
        stays = jnp.minimum(before.max(0), after.max(1)) > threshold
        kept.append(jnp.flatnonzero(stays))
        if not len(kept[-1]):
            raise UserError(f"threshold={threshold} leaves no node behind layer {index}.")
    kept.append(jnp.arange(norms[-1].shape[1]))
    small = []
    for own, inputs, outputs in zip(variables, kept, kept[1:]):
        params = {
            name: jnp.take(jnp.take(leaf, inputs, 0), outputs, -1)
            for name, leaf in own["params"].items()
        }
        knots = jnp.take(own["batch_stats"]["basis"]["knots"], inputs, 0)
        small.append({"params": params, "batch_stats": {"basis": {"knots": knots}}})
    resized = [layer.clone(features=len(out)) for layer, out in zip(layers, kept[1:])]
    return resized, small
