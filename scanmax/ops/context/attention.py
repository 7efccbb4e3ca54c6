"""Attention of sequences that are split over devices: a ring of keys, or an exchange of heads."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from scanmax.ops.attention.dot_product import (
    Window,
    check_arrays,
    dot_product_attention,
    scale_of,
    window_of,
)
from scanmax.ops.attention.normalizer import Normalizer, get_normalizer
from scanmax.ops.attention.streaming import Plan
from scanmax.ops.context.ring import Ring, ring
from scanmax.ops.contract import (
    axis_devices,
    check_choice,
    check_implementation,
    op,
    require,
    vary_together,
)

FORMS = (None, "ring", "all_to_all")
ORDERS = ("contiguous", "zigzag")
# Rows and keys of a block of the ring's logits.
CHUNK = 512


@op("length", "devices")
def zigzag_order(length: int, devices: int) -> Int[Array, "T"]:
    """The order of tokens in which causal attention costs every device of a ring the same.

        device d holds parts d and 2 P - 1 - d of the 2 P equal parts of the sequence

    In the plain order the last device attends to everything and the first to its own part alone;
    in this one each attends to the same number of keys. Take `tokens[order]` and
    `positions = order` once, at the input, and `jnp.argsort(order)` at the output.

    Args:
      length: T, a multiple of 2 P.
      devices: P, how many devices the sequence is split over.

    Returns:
      [T] integers, the place in the sequence of each token in the new order.

    Raises:
      ValueError: length is not a multiple of 2 P.

    Example:
      >>> from scanmax import ops
      >>> ops.zigzag_order(8, 2).tolist()
      [0, 1, 6, 7, 2, 3, 4, 5]

    Reference: unified-long-sequence-dmha
    """
    require(
        length % (2 * devices) == 0,
        f"length={length} is no multiple of 2 * devices={2 * devices}.",
    )
    parts = np.arange(length, dtype=np.int32).reshape(2 * devices, -1)
    pairs = [parts[[device, 2 * devices - 1 - device]] for device in range(devices)]
    return jnp.asarray(np.concatenate(pairs).reshape(-1))


@op(
    "is_causal",
    "normalizer",
    "logits_soft_cap",
    "local_window_size",
    "order",
    "axis_name",
    "mesh",
    "form",
    "chunk_size",
    "precision",
    "implementation",
)
def context_attention(
    query: Float[Array, "*B T H K"],
    key: Float[Array, "*B S G K"],
    value: Float[Array, "*B S G V"],
    *,
    scale: Float[Array, ""] | float | None = None,
    is_causal: bool = False,
    normalizer: str | Normalizer = "softmax",
    logits_soft_cap: float | None = None,
    local_window_size: Window = None,
    order: str = "contiguous",
    axis_name: str = "context",
    mesh: jax.sharding.Mesh | None = None,
    form: str | None = None,
    chunk_size: int | tuple[int, int] | None = None,
    precision=None,
    implementation=None,
) -> Float[Array, "*B T H V"]:
    """`dot_product_attention` of sequences that are split over the devices of a mesh axis.

        l = scale q k^T;   l = cap tanh(l / cap);   y = normalizer(l) v

    The same numbers as `dot_product_attention` of the whole arrays; no device ever holds more than
    its part of the tokens ("ring") or of the heads ("all_to_all"), gradients included. The other
    axes of the mesh stay as they are: batches may be split over them.

    Args:
      query: [*B, T, H, K], the whole array, T split over that axis (or to be split).
      key: [*B, S, G, K], where G divides H.
      value: [*B, S, G, V].
      scale: scalar factor of the logits; None is K ** -0.5.
      is_causal: token t reads tokens up to t.
      normalizer: as in `dot_product_attention`.
      logits_soft_cap: bounds the logits.
      local_window_size: keys allowed around each query, as in `dot_product_attention`.
      order: "contiguous", or "zigzag" where the tokens lie in the order of `zigzag_order`, which
        gives every device of a causal ring the same work; the output lies in it too.
      axis_name: name of the mesh axis.
      mesh: the mesh; None is the one of `jax.set_mesh`. Without one, or where it lacks the axis,
        nothing is split.
      form: "ring" passes keys and values around and keeps sums for its own queries; parts that a
        mask empties are skipped. Normalizers that read the keys several times pass them around as
        often: twice for "lssar", once for the maximum, for each Newton step and for the output of
        "sparsemax" and "entmax15". "all_to_all" exchanges tokens for heads, attends to whole
        sequences, and exchanges back; it needs heads that the devices divide, and repeats key heads
        where there are fewer than devices. None: "ring".
      chunk_size: the largest block of logits: one integer, or (queries, keys).
      precision: of every matrix product.
      implementation: where nothing is split, and in "all_to_all", as in `dot_product_attention`;
        the ring is "xla".

    Returns:
      [*B, T, H, V] in the dtype of value.

    Raises:
      ValueError: a shape or option that does not fit; zigzag order whose T and S differ or are no
        multiple of twice the devices.
      NotImplementedError: a named implementation that cannot serve.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.arange(6.0).reshape(3, 2, 1)  # [T, H, K]
      >>> ops.context_attention(x, x, x, is_causal=True)[0, :, 0]  # on one device
      Array([0., 1.], dtype=float32)

    Reference: unified-long-sequence-dmha
    """
    check_choice("form", form, FORMS)
    check_choice("order", order, ORDERS)
    query, key, _, _ = check_arrays(query, key, value, None, None)
    (T, H, K), (S, G, _) = query.shape[-3:], key.shape[-3:]
    normalizer = get_normalizer(normalizer, K)
    form = form or "ring"
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    devices = axis_devices(mesh, axis_name)
    if order == "zigzag":
        require(
            T == S and T % (2 * devices) == 0,
            f"order='zigzag' needs T={T} and S={S} equal, a multiple of 2 * devices={2 * devices}.",
        )
    if form == "all_to_all":
        require(
            H % devices == 0 and (G % devices == 0 or H % math.lcm(G, devices) == 0),
            f"form='all_to_all' splits heads: {devices} devices on axis {axis_name!r} do not "
            f"divide query heads H={H} over key heads G={G}; form='ring' splits tokens only.",
        )
    options = {
        "is_causal": is_causal,
        "normalizer": normalizer,
        "logits_soft_cap": logits_soft_cap,
        "local_window_size": local_window_size,
        "chunk_size": chunk_size,
        "precision": precision,
        "implementation": implementation,
    }
    scale = scale_of(scale, query)
    if devices == 1 and order == "contiguous":
        return dot_product_attention(query, key, value, scale=scale, **options)
    if form == "ring":
        check_implementation("context_attention with form='ring'", implementation, ("xla",))
        left, right = window_of(local_window_size, is_causal)
        rows, columns = (chunk_size,) * 2 if isinstance(chunk_size, int) else chunk_size or (0, 0)
        plan = Plan(normalizer, left, right, logits_soft_cap, (rows, columns), precision)
        local = functools.partial(_ring_shard, plan, Ring(axis_name, devices, S, order == "zigzag"))
    else:
        local = functools.partial(_exchange_shard, axis_name, devices, (T, S), order, options)
    arrays = [_pad_tokens(x, devices) for x in (query, key, value)]
    if devices == 1:
        return local(*arrays, scale)[..., :T, :, :]
    token = PartitionSpec(*(None,) * (query.ndim - 3), axis_name)
    y = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(token, token, token, PartitionSpec()),
        out_specs=token,
        axis_names={axis_name},
        # a kernel inside does not say over which axes its output varies
        check_vma=form == "ring",
    )(*arrays, scale)
    return y[..., :T, :, :]


def _pad_tokens(x, devices):
    """Tokens up to a multiple of the devices."""
    padding = [(0, 0)] * x.ndim
    padding[-3] = (0, -x.shape[-3] % devices)
    return jnp.pad(x, padding) if padding[-3][1] else x


def _ring_shard(plan, where, query, key, value, scale):
    rows, columns = plan.chunks
    rows = min(rows or CHUNK, query.shape[-3] // where.pieces)
    columns = min(columns or CHUNK, key.shape[-3] // where.pieces)
    plan = Plan(**{**vars(plan), "chunks": (rows, columns)})
    query, key, value, scale = vary_together(query, key, value, scale)
    return ring(plan, where, query, key, value, scale)


def _exchange_shard(axis, devices, sizes, order, options, query, key, value, scale):
    """Tokens for heads, attention to whole sequences, and back."""
    T, S = sizes
    groups = math.lcm(key.shape[-2], devices)
    places = zigzag_order(T, devices) if order == "zigzag" else None

    def gather(x, length):
        if devices > 1:
            x = jax.lax.all_to_all(x, axis, x.ndim - 2, x.ndim - 3, tiled=True)
        x = x[..., :length, :, :]
        return x if places is None else jnp.zeros_like(x).at[..., places, :, :].set(x)

    repeat = groups // key.shape[-2]
    key, value = (jnp.repeat(x, repeat, axis=-2) if repeat > 1 else x for x in (key, value))
    y = dot_product_attention(
        gather(query, T), gather(key, S), gather(value, S), scale=scale, **options
    )
    y = y if places is None else y[..., places, :, :]
    y = _pad_tokens(y, devices)
    if devices > 1:
        y = jax.lax.all_to_all(y, axis, y.ndim - 3, y.ndim - 2, tiled=True)
    return y
