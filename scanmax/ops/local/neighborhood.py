"""Attention of each pixel to the k x k pixels around it: neighbourhoods and MSA-Conv.

Cost and memory are linear in the pixels, the backward pass included; `local.blocks` evaluates them.
"""

import functools
import math

from jaxtyping import Array, Float

from scanmax.ops.attention.dot_product import scale_of
from scanmax.ops.attention.normalizer import Normalizer, get_normalizer
from scanmax.ops.contract import check_choice, op, require
from scanmax.ops.local.blocks import (
    Offsets,
    Terms,
    as_maps,
    attend_blocks,
    attend_offsets,
    check_maps,
    check_table,
    matrix_of,
)
from scanmax.ops.local.patterns import cut, even_block, neighborhood_axis, pair

Pair = int | tuple[int, int]

EDGES = ("clamped", "masked", "zero")
# form=None: up to this many keys the parallel form is faster (CPU, forward and training).
PARALLEL_UP_TO = 9
# Side of a block of queries where the kernel does not ask for more.
BLOCK = 7


@op("kernel_size", "dilation", "edges", "normalizer", "form", "chunk_size", "precision")
def neighborhood_attention(
    query: Float[Array, "*B Y X H K"],
    key: Float[Array, "*B Y X G K"],
    value: Float[Array, "*B Y X G V"],
    relative_bias: Float[Array, "H ry rx"] | None = None,
    *,
    kernel_size: Pair,
    dilation: Pair = 1,
    edges: str = "clamped",
    global_key: Float[Array, "*B P G K"] | None = None,
    global_value: Float[Array, "*B P G V"] | None = None,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    form: str | None = None,
    chunk_size: int | None = None,
    precision=None,
) -> Float[Array, "*B Y X H V"]:
    """Attention of each pixel to the k x k pixels around it.

        y_p = sum over q in N(p) of  normalizer(scale q_p . k_q + bias[(q - p) / dilation]) v_q

    At the edges "clamped" moves N(p) into the map, so that every query has k x k keys; "masked"
    cuts it off; with "zero" the keys outside are zero vectors and take part. Dilated, each of the
    dilation^2 interleaved maps is a map of its own. Where a map has fewer than k positions,
    "clamped" reads them all.

    Args:
      query: [*B, Y, X, H, K].
      key: [*B, Y, X, G, K], where G divides H.
      value: [*B, Y, X, G, V].
      relative_bias: added by the difference of key and query, which is 0 in the middle: [H, k, k'],
        or [H, 2 k - 1, 2 k' - 1] for clamped edges, where differences reach further.
      kernel_size: k, or (k, k') for rows and columns; odd.
      dilation: distance of neighbouring keys, one integer or two.
      edges: "clamped", "masked" or "zero".
      global_key: [*B, P, G, K], keys that every query reads too (class tokens).
      global_value: [*B, P, G, V].
      scale: scalar factor of the products, may be traced; None is K ** -0.5.
      normalizer: a name or a `Normalizer`; zeros beyond the map count as keys.
      form: "chunked" multiplies blocks of queries with all keys that they read together;
        "parallel" (not for clamped edges) takes all queries against one offset after another.
        None: "parallel" for at most 9 keys where it serves.
      chunk_size: side of a block of queries; None is about the kernel's.
      precision: of every matrix product.

    Returns:
      [*B, Y, X, H, V] in the dtype of value.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)  # [Y, X, H, K]
      >>> ops.neighborhood_attention(0 * x, x, x, kernel_size=(1, 3))[0, :, 0, 0]
      Array([1., 1., 2., 2.], dtype=float32)

    Reference: tic-msa-conv
    """
    check_choice("edges", edges, EDGES)
    kernel = _odd_kernel(kernel_size)
    reach = tuple(2 * k - 1 for k in kernel) if edges == "clamped" else kernel
    return _neighborhood(
        query,
        key,
        value,
        Terms(relative_bias, None, None, global_key, global_value),
        reach,
        kernel,
        (1, 1),
        pair("dilation", dilation, 1),
        edges,
        scale,
        normalizer,
        form,
        chunk_size,
        precision,
    )


@op("kernel_size", "stride", "dilation", "edges", "normalizer", "form", "chunk_size", "precision")
def msa_conv(
    query: Float[Array, "*B Y X H K"],
    key: Float[Array, "*B Y X G K"],
    value: Float[Array, "*B Y X G V"],
    relative_bias: Float[Array, "H ky kx"] | None = None,
    *,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    dilation: Pair = 1,
    edges: str = "zero",
    global_key: Float[Array, "*B P G K"] | None = None,
    global_value: Float[Array, "*B P G V"] | None = None,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    form: str | None = None,
    chunk_size: int | None = None,
    precision=None,
) -> Float[Array, "*B U W H V"]:
    """Attention evaluated like a convolution: the weights of a kernel's taps are a softmax.

        y[u] = sum_o normalizer_o(scale q[u s] . k[u s + d o] + bias[o]) v[u s + d o]

    over the k x k offsets o around the pixel. Equal scores make it an average filter. As in the
    authors' code the query is the centre alone, keys outside the map are zero vectors that take
    part (edges="zero"), and there is no position term; the paper leaves all three open, and the
    authors' attention has one head and stride 1. One channel per head makes it depthwise.

    Args:
      query: [*B, Y, X, H, K], of which every `stride`-th is asked.
      key: [*B, Y, X, G, K], where G divides H.
      value: [*B, Y, X, G, V].
      relative_bias: [H, k, k'], added to the logits of each offset.
      kernel_size: k, or (k, k') for rows and columns; odd.
      stride: s, one integer or two.
      dilation: d, one integer or two.
      edges: "zero", or "masked", which leaves the keys outside the map out.
      global_key: [*B, P, G, K], keys that every query reads too.
      global_value: [*B, P, G, V].
      scale: scalar factor of the products, may be traced; None is K ** -0.5.
      normalizer: a name or a `Normalizer`; zeros beyond the map count as keys.
      form: "parallel" takes all queries against one offset after another; "chunked" multiplies
        blocks of queries with all keys that they read together (not for a stride and a dilation at
        once). None: "parallel" for at most 9 keys or where only it serves.
      chunk_size: side of a block of queries; None is about the kernel's.
      precision: of every matrix product.

    Returns:
      [*B, ceil(Y / s), ceil(X / s), H, V] in the dtype of value.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.full((1, 4, 1, 1), 3.0)  # [Y, X, H, K]
      >>> ops.msa_conv(0 * x, x, x, kernel_size=(1, 3))[0, :, 0, 0]
      Array([2., 3., 3., 2.], dtype=float32)

    Reference: tic-msa-conv
    """
    check_choice("edges", edges, EDGES[1:])
    kernel = _odd_kernel(kernel_size)
    return _neighborhood(
        query,
        key,
        value,
        Terms(relative_bias, None, None, global_key, global_value),
        kernel,
        kernel,
        pair("stride", stride, 1),
        pair("dilation", dilation, 1),
        edges,
        scale,
        normalizer,
        form,
        chunk_size,
        precision,
    )


def _neighborhood(
    query,
    key,
    value,
    terms,
    reach,
    kernel,
    stride,
    dilation,
    edges,
    scale,
    normalizer,
    form,
    chunk_size,
    precision,
):
    check_maps(query, key, value, terms.global_key, terms.global_value)
    check_choice("form", form, (None, "parallel", "chunked"))
    check_table(terms.table, query, reach)
    uneven = max(stride) > 1 and max(dilation) > 1
    require(
        not (form == "chunked" and uneven),
        f"form='chunked' with stride={stride} and dilation={dilation}: it takes only one of them.",
    )
    require(
        not (form == "parallel" and edges == "clamped"),
        "form='parallel' with edges='clamped': at the edges the offsets differ; take 'chunked'.",
    )
    require(chunk_size is None or chunk_size >= 1, f"chunk_size={chunk_size}; expected at least 1.")
    few = math.prod(kernel) <= PARALLEL_UP_TO
    if form is None:
        form = "parallel" if edges != "clamped" and (few or uneven) else "chunked"
    normalizer = get_normalizer(normalizer, query.shape[-1])
    scale = scale_of(scale, query)
    query, key, value, terms, batch = as_maps(query, key, value, terms)
    arrays = (query, key, value, terms, scale, precision)
    if form == "parallel":
        offsets = Offsets(kernel, stride, dilation, edges == "zero")
        y = attend_offsets(offsets, normalizer, *arrays)
    else:
        cuts = []
        for size, k, s, d in zip(query.shape[1:3], kernel, stride, dilation):
            axis = neighborhood_axis(size, k, s, d, edges)
            target = min(max(k // s, BLOCK), 2 * BLOCK) if chunk_size is None else chunk_size
            cuts.append(cut(axis, even_block(axis.low.shape[1], target)))
        query = query[:, :: stride[0], :: stride[1]]
        y = attend_blocks(tuple(cuts), normalizer, query, *arrays[1:])
    return y.reshape(*batch, *y.shape[1:])


def _odd_kernel(kernel_size):
    kernel = pair("kernel_size", kernel_size, 1)
    require(all(k % 2 for k in kernel), f"kernel_size={kernel_size}; expected odd numbers.")
    return kernel


@op("kernel_size", "dilation", "edges", "normalizer", "precision")
def neighborhood_attention_matrix(
    query: Float[Array, "*B Y X H K"],
    key: Float[Array, "*B Y X G K"],
    relative_bias: Float[Array, "H ry rx"] | None = None,
    *,
    kernel_size: Pair,
    dilation: Pair = 1,
    edges: str = "clamped",
    global_key: Float[Array, "*B P G K"] | None = None,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `neighborhood_attention` mixes the values; for small maps.

    P[p, q] = normalizer(scale q_p . k_q + bias[(q - p) / dilation]) in the neighbourhood, 0
    elsewhere; pixels row by row, T = Y X. What zeros outside the map receive is not shown.

    Args:
      query: [*B, Y, X, H, K].
      key: [*B, Y, X, G, K].
      relative_bias: as in `neighborhood_attention`, like all that follow.
      kernel_size: one integer or two, odd.
      dilation: one integer or two.
      edges: "clamped", "masked" or "zero".
      global_key: [*B, P, G, K]; their columns stand first.
      scale: scalar factor of the products.
      normalizer: a name or a `Normalizer`.
      precision: of every matrix product.

    Returns:
      [*B, H, T, P + T] in the dtype of query.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((1, 3, 1, 1))
      >>> ops.neighborhood_attention_matrix(x, x, kernel_size=(1, 3), edges="masked")[0, 0]
      Array([0.5, 0.5, 0. ], dtype=float32)

    Reference: tic-msa-conv
    """
    attend = functools.partial(
        neighborhood_attention,
        query,
        key,
        relative_bias=relative_bias,
        kernel_size=kernel_size,
        dilation=dilation,
        edges=edges,
        global_key=global_key,
        scale=scale,
        normalizer=normalizer,
        precision=precision,
    )
    return matrix_of(attend, query, key, global_key)


@op("kernel_size", "stride", "dilation", "edges", "normalizer", "precision")
def msa_conv_matrix(
    query: Float[Array, "*B Y X H K"],
    key: Float[Array, "*B Y X G K"],
    relative_bias: Float[Array, "H ky kx"] | None = None,
    *,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    dilation: Pair = 1,
    edges: str = "zero",
    global_key: Float[Array, "*B P G K"] | None = None,
    scale: Float[Array, ""] | float | None = None,
    normalizer: str | Normalizer = "softmax",
    precision=None,
) -> Float[Array, "*B H T S"]:
    """The weights by which `msa_conv` mixes the values; for small maps.

    P[u, q] = normalizer(scale q_(u s) . k_q + bias[o]) at q = u s + d o, 0 elsewhere; pixels row
    by row. What zeros outside the map receive is not shown.

    Args:
      query: [*B, Y, X, H, K].
      key: [*B, Y, X, G, K].
      relative_bias: [H, k, k'], as in `msa_conv`, like all that follow.
      kernel_size: one integer or two, odd.
      stride: one integer or two.
      dilation: one integer or two.
      edges: "zero" or "masked".
      global_key: [*B, P, G, K]; their columns stand first.
      scale: scalar factor of the products.
      normalizer: a name or a `Normalizer`.
      precision: of every matrix product.

    Returns:
      [*B, H, T, P + S] in the dtype of query: T = ceil(Y / s) ceil(X / s), S = Y X.

    Raises:
      ValueError: a shape or option that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((1, 3, 1, 1))
      >>> ops.msa_conv_matrix(0 * x, x, kernel_size=(1, 3), stride=2, edges="masked")[0]
      Array([[0.5, 0.5, 0. ],
             [0. , 0.5, 0.5]], dtype=float32)

    Reference: tic-msa-conv
    """
    attend = functools.partial(
        msa_conv,
        query,
        key,
        relative_bias=relative_bias,
        kernel_size=kernel_size,
        stride=stride,
        dilation=dilation,
        edges=edges,
        global_key=global_key,
        scale=scale,
        normalizer=normalizer,
        precision=precision,
    )
    return matrix_of(attend, query, key, global_key)
