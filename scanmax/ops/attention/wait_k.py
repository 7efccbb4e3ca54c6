"""Wait-k: a schedule of reading and writing, as a mask of cross-attention, and how far it lags."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scanmax.ops.contract import check_rank, check_shape, op, require


@op("length", "source_length")
def wait_k_mask(
    k: Int[Array, "*B"],
    source_lengths: Int[Array, "*B"] | None = None,
    *,
    length: int,
    source_length: int,
) -> Bool[Array, "*B 1 T S"]:
    """What each step of the target may read of a source that arrives token by token.

        mask_tj = j <= z_t,    z_t = min(k + t - 1, |x|),    t = 1 .. T, j = 1 .. S

    k may be traced and differ from row to row: training on many draws it anew for each batch, and
    one program serves all. With a causal encoder nothing is ever encoded again.

    Args:
      k: source tokens that are read before the first is written.
      source_lengths: |x| of each row; None is S.
      length: T, tokens of the target.
      source_length: S, of the source, padding included.

    Returns:
      [*B, 1, T, S], True = attend, as `dot_product_attention` takes it.

    Raises:
      ValueError: a length below 1, or source_lengths of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.wait_k_mask(jnp.array(2), length=3, source_length=4)[0].astype(int)
      Array([[1, 1, 0, 0],
             [1, 1, 1, 0],
             [1, 1, 1, 1]], dtype=int32)

    Reference: wait-k
    """
    for name, number in (("length", length), ("source_length", source_length)):
        require(number >= 1, f"{name}={number}; expected at least 1.")
    check_shape("source_lengths", source_lengths, k.shape, "[*B]")
    lead = (1,) * k.ndim
    steps = jnp.arange(length, dtype=k.dtype).reshape(*lead, length)
    read = k[..., None] + steps
    if source_lengths is not None:
        read = jnp.minimum(read, source_lengths.astype(k.dtype)[..., None])
    places = jnp.arange(source_length, dtype=k.dtype).reshape(*lead, 1, source_length)
    return (places < read[..., None])[..., None, :, :]


@op()
def average_lagging(
    read: Int[Array, "*B T"],
    source_lengths: Int[Array, "*B"],
    target_lengths: Int[Array, "*B"],
) -> Float[Array, "*B"]:
    """By how many source tokens a translation lags behind one that is written as it is read.

        AL = 1 / tau  sum_(t <= tau)  z_t - (t - 1) |x| / |y|,    tau = min {t: z_t = |x|}

    Where the source is never read to its end, tau is |y|.

    Args:
      read: z_t, source tokens that were read before token t was written.
      source_lengths: |x|.
      target_lengths: |y|, from 1 to T.

    Returns:
      [*B] in float32, or float64 where that is on.

    Raises:
      ValueError: lengths of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.average_lagging(jnp.array([2, 3, 4, 4]), jnp.array(4), jnp.array(4))
      Array(2., dtype=float32)

    Reference: wait-k
    """
    check_rank(1, read=read)
    *batch, length = read.shape
    check_shape("source_lengths", source_lengths, batch, "[*B]")
    check_shape("target_lengths", target_lengths, batch, "[*B]")
    dtype = jnp.result_type(float)
    read = read.astype(dtype)
    source, target = (x.astype(dtype)[..., None] for x in (source_lengths, target_lengths))
    steps = jnp.arange(length, dtype=dtype).reshape((1,) * len(batch) + (length,))
    # tau is the first step behind which nothing is left to read: earlier ones have not read all
    done = jnp.cumsum((read >= source).astype(jnp.int32), -1) - (read >= source)
    counts = ((done == 0) & (steps < target)).astype(dtype)
    ideal = steps * (source / target)
    return jnp.sum(counts * (read - ideal), -1) / jnp.sum(counts, -1)
