"""Scans of sequences that are split over devices: local scans, and states that pass on.

Every device scans its own tokens from a state of zeros. The devices then exchange the states after
their tokens and their total decays, whose sizes do not depend on the number of tokens; each sums up
the state that enters its part and adds what its tokens read of it.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Inexact

from scanmax.ops.contract import (
    accumulator_dtype,
    align,
    axis_devices,
    check_rank,
    check_shape,
    op,
    require,
    vary_together,
)
from scanmax.ops.linear.attention import linear_attention
from scanmax.ops.linear.feature_maps import check_feature_map, features
from scanmax.ops.scan.diagonal import diagonal_scan
from scanmax.ops.scan.recurrence import repeat_groups
from scanmax.ops.scan.selective import selective_scan
from scanmax.ops.scan.ssd import ssd, time_steps

Mesh = jax.sharding.Mesh


@op("reverse", "return_state", "axis_name", "mesh")
def context_diagonal_scan(
    decay: Inexact[Array, "*B T D"],
    x: Inexact[Array, "*B T D"],
    *,
    reverse: bool = False,
    initial_state: Inexact[Array, "*B D"] | None = None,
    return_state: bool = False,
    axis_name: str = "context",
    mesh: Mesh | None = None,
):
    """`diagonal_scan` of sequences that are split over the devices of a mesh axis.

        h_t = decay_t * h_{t-1} + x_t          (reverse: h_t = decay_t * h_{t+1} + x_t)

    The same numbers and gradients as of the whole arrays on one device. What the devices exchange
    does not depend on T.

    Args:
      decay: [*B, T, D], the whole array, T split over that axis (or to be split).
      x: the inputs, shaped alike.
      reverse: run from the last token to the first.
      initial_state: the h before the first token (after the last one in reverse).
      return_state: also return the h after the last token read, on every device.
      axis_name: name of the mesh axis.
      mesh: the mesh; None is the one of `jax.set_mesh`. Without one, or where it lacks the axis,
        nothing is split.

    Returns:
      All h, in the dtype and shape of `x`; with `return_state` also the last h, in accumulator
      precision.

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> ops.context_diagonal_scan(jnp.full((3, 1), 0.5), jnp.ones((3, 1)))[:, 0]
      Array([1.  , 1.5 , 1.75], dtype=float32)

    Reference: unified-long-sequence-dmha
    """
    check_rank(2, x=x)
    check_shape("decay", decay, x.shape, "the shape of x")
    shape = (*x.shape[:-2], x.shape[-1])
    check_shape("initial_state", initial_state, shape, "[*B, D]")
    dtype = accumulator_dtype(decay, x, initial_state)
    time = x.ndim - 2

    def local(arrays, state):
        decay, x = arrays
        return diagonal_scan(decay, x, reverse=reverse, initial_state=state, return_state=True)

    def total(arrays):
        return jnp.prod(arrays[0].astype(dtype), axis=time)

    def read(arrays, state):
        decay = arrays[0].astype(dtype)
        return diagonal_scan(decay, jnp.zeros_like(decay), reverse=reverse, initial_state=state)

    # tokens of padding stand behind the last one, in either direction
    return _over_devices(
        ((decay, 1), (x, 0)),
        () if initial_state is None else (initial_state,),
        jnp.zeros(shape, dtype),
        (local, total, read),
        time=time,
        reverse=reverse,
        return_state=return_state,
        axis_name=axis_name,
        mesh=mesh,
    )


@op("feature_map", "normalize", "return_state", "axis_name", "mesh", "chunk_size", "precision")
def context_linear_attention(
    query: Float[Array, "*B T G K"],
    key: Float[Array, "*B T G K"],
    value: Float[Array, "*B T H V"],
    *,
    log_decay: Float[Array, "*B T H"] | Float[Array, "*B T H K"] | None = None,
    feature_map: str | None = None,
    normalize: bool = False,
    scale: Float[Array, ""] | float | None = None,
    initial_state: Float[Array, "*B H K _"] | None = None,
    return_state: bool = False,
    axis_name: str = "context",
    mesh: Mesh | None = None,
    chunk_size: int = 64,
    precision=None,
):
    """Causal `linear_attention` of sequences that are split over the devices of a mesh axis.

        S_t = exp(log_decay_t) * S_{t-1} + phi(k_t) (x) v_t,    y_t = scale * S_t^T phi(q_t)

    The same numbers and gradients as of the whole arrays on one device. What the devices exchange
    does not depend on T.

    Args:
      query: the queries, the whole array, T split over that axis (or to be split).
      key: the keys.
      value: the values.
      log_decay: at most 0; per head, per key channel, or None.
      feature_map: phi, as in `linear_attention`.
      normalize: divide by the sum of the weights.
      scale: None is 1.
      initial_state: the S before the first token; V + 1 columns with `normalize`.
      return_state: also return the S after the last token, on every device.
      axis_name: name of the mesh axis.
      mesh: the mesh; None is the one of `jax.set_mesh`. Without one, or where it lacks the axis,
        nothing is split.
      chunk_size: tokens per chunk of the local scans.
      precision: of every matrix product.

    Returns:
      [*B, T, H, V] in the dtype of value; with `return_state` also the state [*B, H, K, V].

    Raises:
      ValueError: an array of the wrong shape, an unknown feature map.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((3, 1, 1))
      >>> ops.context_linear_attention(x, x, x)[:, 0, 0]
      Array([1., 2., 3.], dtype=float32)

    Reference: mamba2-ssd
    """
    check_feature_map(feature_map)
    check_rank(3, query=query, key=key, value=value)
    dtype = accumulator_dtype(query, key, value, log_decay, initial_state)
    out, (heads, width) = value.dtype, value.shape[-2:]
    query, key = features(query, feature_map), features(key, feature_map)
    shape = (*value.shape[:-3], heads, key.shape[-1], width + normalize)
    check_shape("initial_state", initial_state, shape, "[*B, H, K, V]")
    if normalize:
        value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
    time = value.ndim - 3
    arrays = ((query, 0), (key, 0), (value.astype(dtype), 0))
    arrays += () if log_decay is None else ((log_decay, 0),)

    def local(arrays, state):
        return linear_attention(
            *arrays[:3],
            log_decay=arrays[3] if arrays[3:] else None,
            initial_state=state,
            return_state=True,
            chunk_size=chunk_size,
            precision=precision,
        )

    def total(arrays):
        if not arrays[3:]:
            return jnp.ones(shape[:-2], dtype)[..., None, None]
        decay = jnp.exp(arrays[3].astype(dtype).sum(time))
        return decay.reshape(decay.shape + (1,) * (len(shape) - decay.ndim))

    def read(arrays, state):
        q = repeat_groups(arrays[0], heads, -2).astype(dtype)
        if not arrays[3:]:
            return jnp.einsum("...thk,...hkv->...thv", q, state, precision=precision)
        decay = jnp.exp(jnp.cumsum(arrays[3].astype(dtype), time))
        if decay.ndim == q.ndim:
            return jnp.einsum("...thk,...hkv->...thv", q * decay, state, precision=precision)
        y = jnp.einsum("...thk,...hkv->...thv", q, state, precision=precision)
        return y * decay[..., None]

    result = _over_devices(
        arrays,
        () if initial_state is None else (initial_state,),
        jnp.zeros(shape, dtype),
        (local, total, read),
        time=time,
        return_state=return_state,
        axis_name=axis_name,
        mesh=mesh,
    )
    y, state = result if return_state else (result, None)
    if normalize:
        weight = y[..., -1:]
        y = y[..., :-1] / jnp.where(weight == 0, 1, weight)
    y = (y if scale is None else y * scale).astype(out)
    return (y, state) if return_state else y


@op("dt_softplus", "dt_limit", "return_state", "axis_name", "mesh", "chunk_size", "precision")
def context_ssd(
    x: Float[Array, "*B T H P"],
    dt: Float[Array, "*B T H"],
    A: Float[Array, " H"],
    B: Float[Array, "*B T G N"],
    C: Float[Array, "*B T G N"],
    *,
    D: Float[Array, " H"] | None = None,
    dt_bias: Float[Array, " H"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] | None = None,
    initial_state: Float[Array, "*B H N P"] | None = None,
    return_state: bool = False,
    axis_name: str = "context",
    mesh: Mesh | None = None,
    chunk_size: int = 64,
    precision=None,
):
    """`ssd` of sequences that are split over the devices of a mesh axis.

        S_t = exp(dt_t A) S_{t-1} + dt_t B_t (x) x_t,    y_t = S_t^T C_t + D x_t

    The same numbers and gradients as of the whole arrays on one device. What the devices exchange
    does not depend on T.

    Args:
      x: the inputs, the whole array, T split over that axis (or to be split).
      dt: the step sizes.
      A: the rates, negative.
      B: input vectors per group; the groups divide the heads.
      C: output vectors per group.
      D: skip weights.
      dt_bias: added to dt first.
      dt_softplus: then dt = softplus(dt).
      dt_limit: then dt is clipped to [low, high].
      initial_state: the S before the first token.
      return_state: also return the S after the last token, on every device.
      axis_name: name of the mesh axis.
      mesh: the mesh; None is the one of `jax.set_mesh`. Without one, or where it lacks the axis,
        nothing is split.
      chunk_size: tokens per chunk of the local scans.
      precision: of every matrix product.

    Returns:
      [*B, T, H, P] in the dtype of x; with `return_state` also the state [*B, H, N, P].

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x, dt, B = jnp.ones((3, 1, 1)), jnp.ones((3, 1)), jnp.ones((3, 1, 1))
      >>> ops.context_ssd(x, dt, jnp.zeros(1), B, B)[:, 0, 0]
      Array([1., 2., 3.], dtype=float32)

    Reference: mamba2-ssd
    """
    check_rank(3, x=x, B=B)
    dtype = accumulator_dtype(x, dt, A, B, C, initial_state)
    heads, width = x.shape[-2:]
    check_shape("dt", dt, x.shape[:-1], "[*B, T, H]")
    check_shape("A", A, (heads,), "[H]")
    require(
        heads % B.shape[-2] == 0,
        f"B has shape {B.shape}: its groups do not divide the {heads} heads of x.",
    )
    shape = (*x.shape[:-3], heads, B.shape[-1], width)
    check_shape("initial_state", initial_state, shape, "[*B, H, N, P]")
    dt = time_steps(dt, dt_bias, dt_softplus, dt_limit, dtype)
    time = x.ndim - 3
    arrays = ((x, 0), (dt, 0), (B, 0), (C, 0))

    def rates(dt, A):
        return dt * align(A.astype(dtype), dt)

    def local(arrays, state, A, *D):
        x, dt, B, C = arrays
        return ssd(
            x.astype(dtype),
            dt,
            A,
            B,
            C,
            D=D[0] if D else None,
            initial_state=state,
            return_state=True,
            chunk_size=chunk_size,
            precision=precision,
        )

    def total(arrays, A, *D):
        return jnp.exp(rates(arrays[1], A).sum(time))[..., None, None]

    def read(arrays, state, A, *D):
        q = repeat_groups(arrays[3], heads, -2).astype(dtype)
        y = jnp.einsum("...thk,...hkv->...thv", q, state, precision=precision)
        return y * jnp.exp(jnp.cumsum(rates(arrays[1], A), time))[..., None]

    result = _over_devices(
        arrays,
        () if initial_state is None else (initial_state,),
        jnp.zeros(shape, dtype),
        (local, total, read),
        constants=(A,) if D is None else (A, D),
        time=time,
        return_state=return_state,
        axis_name=axis_name,
        mesh=mesh,
    )
    y, state = result if return_state else (result, None)
    return (y.astype(x.dtype), state) if return_state else y.astype(x.dtype)


@op("dt_softplus", "return_state", "axis_name", "mesh", "chunk_size")
def context_selective_scan(
    x: Float[Array, "*B T D"],
    dt: Float[Array, "*B T D"],
    A: Float[Array, "D N"],
    B: Float[Array, "*B T N"],
    C: Float[Array, "*B T N"],
    *,
    D: Float[Array, " D"] | None = None,
    dt_bias: Float[Array, " D"] | None = None,
    dt_softplus: bool = False,
    initial_state: Float[Array, "*B D N"] | None = None,
    return_state: bool = False,
    axis_name: str = "context",
    mesh: Mesh | None = None,
    chunk_size: int = 64,
):
    """`selective_scan` of sequences that are split over the devices of a mesh axis.

        h_t = exp(dt_t A) * h_{t-1} + dt_t B_t x_t,    y_t = h_t C_t + D x_t

    The same numbers and gradients as of the whole arrays on one device. What the devices exchange
    does not depend on T.

    Args:
      x: the inputs, the whole array, T split over that axis (or to be split).
      dt: the step sizes, per channel.
      A: the rates, negative.
      B: input vectors, shared by the channels.
      C: output vectors, shared by the channels.
      D: skip weights per channel.
      dt_bias: added to dt first.
      dt_softplus: then dt = softplus(dt).
      initial_state: the h before the first token.
      return_state: also return the h after the last token, on every device.
      axis_name: name of the mesh axis.
      mesh: the mesh; None is the one of `jax.set_mesh`. Without one, or where it lacks the axis,
        nothing is split.
      chunk_size: tokens between the states kept for the backward pass.

    Returns:
      [*B, T, D] in the dtype of x; with `return_state` also the state [*B, D, N].

    Raises:
      ValueError: an array of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> x = jnp.ones((3, 1))
      >>> ops.context_selective_scan(x, x, jnp.zeros((1, 1)), x, x)[:, 0]
      Array([1., 2., 3.], dtype=float32)

    Reference: hidden-mamba-attention
    """
    check_rank(2, x=x, A=A, B=B)
    dtype = accumulator_dtype(x, dt, A, B, C, initial_state)
    check_shape("dt", dt, x.shape, "the shape of x")
    shape = (*x.shape[:-2], *A.shape)
    check_shape("initial_state", initial_state, shape, "[*B, D, N]")
    dt = time_steps(dt, dt_bias, dt_softplus, None, dtype)
    time = x.ndim - 2
    arrays = ((x, 0), (dt, 0), (B, 0), (C, 0))

    def local(arrays, state, A, *D):
        x, dt, B, C = arrays
        return selective_scan(
            x.astype(dtype),
            dt,
            A,
            B,
            C,
            D=D[0] if D else None,
            initial_state=state,
            return_state=True,
            chunk_size=chunk_size,
        )

    def total(arrays, A, *D):
        steps = arrays[1].sum(time)[..., None]
        return jnp.exp(steps * align(A.astype(dtype), steps))

    def read(arrays, state, A, *D):
        # the scan of no inputs: its memory is that of the scan
        _, dt, B, C = arrays
        return selective_scan(
            jnp.zeros_like(dt), dt, A, B, C, initial_state=state, chunk_size=chunk_size
        )

    result = _over_devices(
        arrays,
        () if initial_state is None else (initial_state,),
        jnp.zeros(shape, dtype),
        (local, total, read),
        constants=(A,) if D is None else (A, D),
        time=time,
        return_state=return_state,
        axis_name=axis_name,
        mesh=mesh,
    )
    y, state = result if return_state else (result, None)
    return (y.astype(x.dtype), state) if return_state else y.astype(x.dtype)


def _over_devices(
    arrays,
    initial_state,
    zeros,
    functions,
    *,
    constants=(),
    time,
    reverse=False,
    return_state,
    axis_name,
    mesh,
):
    """The scan over parts: arrays are pairs of an array and what pads it, to the identity.

    functions: local(arrays, state or None, *constants) gives y and the last state; total(..), the
    decay over all tokens, which broadcasts to the state; read(arrays, state, ..), what the tokens
    read of a state before them.
    """
    local, total, read = functions
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    devices = axis_devices(mesh, axis_name)
    length = arrays[0][0].shape[time]
    padded = [_padded(x, time, -length % devices, value) for x, value in arrays]
    state = initial_state[0].astype(zeros.dtype) if initial_state else zeros

    def part(arrays, state, constants):
        if devices == 1:
            return local(arrays, state, *constants)
        y, own = local(arrays, None, *constants)
        decay = jnp.broadcast_to(total(arrays, *constants), own.shape)
        own, decay = vary_together(*(x.astype(state.dtype) for x in (own, decay)))
        entering, last = _entering(own, decay, state, axis_name, devices, reverse)
        added = read(arrays, entering, *constants)
        return (y.astype(added.dtype) + added).astype(y.dtype), last

    if devices > 1:
        token = PartitionSpec(*(None,) * time, axis_name)
        part = jax.shard_map(
            part,
            mesh=mesh,
            in_specs=(token, PartitionSpec(), PartitionSpec()),
            out_specs=(token, PartitionSpec()),
            axis_names={axis_name},
        )
    y, last = part(tuple(padded), state, tuple(constants))
    y = lax.slice_in_dim(y, 0, length, axis=time)
    return (y, last) if return_state else y


def _padded(x, time, pad, value):
    if not pad:
        return x
    return jnp.pad(
        x, [(0, pad if axis == time else 0) for axis in range(x.ndim)], constant_values=value
    )


def _entering(own, decay, state, axis_name, devices, reverse):
    """The state before this device's tokens, and the one after all; [P, *state] are exchanged."""
    owns, decays = (lax.all_gather(x, axis_name) for x in (own, decay))
    states = [state]
    order = range(devices)
    for device in reversed(order) if reverse else order:
        states.append(decays[device] * states[-1] + owns[device])
    index = lax.axis_index(axis_name)
    index = devices - 1 - index if reverse else index
    varying = functools.partial(lax.pcast, axis_name=axis_name, to="varying")
    before = jnp.stack([varying(states[0]), *states[1:-1]])
    entering = lax.dynamic_index_in_dim(before, index, 0, keepdims=False)
    # equal everywhere: the sum of one device's says so
    last = lax.psum(jnp.where(index == devices - 1, states[-1], 0), axis_name)
    return entering, last
