"""Token shifts, pixel by pixel."""

import jax.numpy as jnp


def token_shift(x, *, heads=1, is_causal=True, segment_ids=None, initial_state=None):
    """y_t = x_{t-1}; of both directions, x_{t+1} in the second half of each head's channels."""
    nothing = jnp.zeros_like(x[..., 0, :])
    first = nothing if initial_state is None else initial_state.astype(x.dtype)
    tokens = [first, *jnp.moveaxis(x, -2, 0), nothing]
    width = x.shape[-1] // heads
    ahead = (jnp.arange(x.shape[-1]) % width >= width // 2) & (not is_causal)
    ahead = jnp.broadcast_to(ahead, nothing.shape)
    length = x.shape[-2]
    rows = []
    for t in range(length):
        before, after = tokens[t], tokens[t + 2]
        if segment_ids is not None:
            own = segment_ids[..., t]
            if t > 0:
                before = jnp.where((segment_ids[..., t - 1] == own)[..., None], before, 0)
            if t + 1 < length:
                after = jnp.where((segment_ids[..., t + 1] == own)[..., None], after, 0)
        rows.append(jnp.where(ahead, after, before))
    return jnp.stack(rows, -2)


def quarter_shift(x, *, heads=1, shift=1):
    """y[p] = x[p - shift d], d = right, left, down, up for the quarters of a head's channels."""
    height, width, dim = x.shape[-3:]
    size = dim // heads
    columns = []
    for channel in range(dim):
        place = channel % size
        quarter = sum(place >= edge for edge in (size // 4, size // 2, 3 * size // 4))
        down, right = ((0, 1), (0, -1), (1, 0), (-1, 0))[quarter]
        column = jnp.zeros_like(x[..., channel])
        for i in range(height):
            for j in range(width):
                source = (i - shift * down, j - shift * right)
                if 0 <= source[0] < height and 0 <= source[1] < width:
                    column = column.at[..., i, j].set(x[..., *source, channel])
        columns.append(column)
    return jnp.stack(columns, -1)
