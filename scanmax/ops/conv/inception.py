"""The depthwise convolution of InceptionNeXt: a square, a row, a column, and nothing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax.ops.contract import check_choice, check_rank, op, require
from scanmax.ops.conv.conv2d import depthwise_conv2d

PLACES = ("first", "last")


@op("identity", "precision", "implementation")
def inception_depthwise_conv2d(
    x: Float[Array, "*B Y X C"],
    square: Float[Array, "k k 1 G"],
    row: Float[Array, "1 b 1 H"],
    column: Float[Array, "a 1 1 J"],
    *,
    identity: str = "first",
    precision: jax.lax.PrecisionLike = None,
    implementation: str | tuple[str, ...] | None = None,
) -> Float[Array, "*B Y X C"]:
    """Depthwise convolutions of three shapes, each of G channels; the other channels pass.

        y = [x_1, x_2 * square, x_3 * row, x_4 * column],    x = [x_1, x_2, x_3, x_4] by channels

    Zeros lie beyond the edges. It is a depthwise convolution whose kernels are mostly zeros.

    Args:
      x: the map.
      square: kernels of the first group, 3 by 3 in the paper.
      row: kernels along X, 1 by 11 in the paper.
      column: kernels along Y.
      identity: where the channels lie that pass: "first" as in the released code, or "last" as in
        the paper's text; the three groups follow each other in either.
      precision: of the products, as in jax.lax.
      implementation: None or "xla".

    Returns:
      [*B, Y, X, C] in the dtype of x.

    Raises:
      ValueError: a kernel of the wrong shape, more than C channels in the groups, an unknown place.
      NotImplementedError: for an implementation other than "xla".

    Example:
      >>> import jax.numpy as jnp
      >>> from scanmax import ops
      >>> kernels = [jnp.ones((*size, 1, 1)) for size in ((3, 3), (1, 3), (3, 1))]
      >>> ops.inception_depthwise_conv2d(jnp.ones((1, 2, 4)), *kernels)
      Array([[[1., 2., 2., 1.],
              [1., 2., 2., 1.]]], dtype=float32)

    Reference: inceptionnext
    """
    check_rank(3, x=x)
    check_choice("identity", identity, PLACES)
    groups = []
    for name, kernel, flat in (("square", square, None), ("row", row, 0), ("column", column, 1)):
        require(
            kernel.ndim == 4 and kernel.shape[2] == 1 and (flat is None or kernel.shape[flat] == 1),
            f"{name} has shape {kernel.shape}; expected "
            f"{('[1, b, 1, H]', '[a, 1, 1, J]', '[k, k, 1, G]')[2 if flat is None else flat]}.",
        )
        groups.append(kernel.shape[3])
    passing = x.shape[-1] - sum(groups)
    require(
        passing >= 0,
        f"x has shape {x.shape}: kernels of {groups} channels need at least {sum(groups)}.",
    )
    rest, mixed = x[..., :passing], x[..., passing:]
    if identity == "last":
        mixed, rest = x[..., : sum(groups)], x[..., sum(groups) :]
    cuts = (groups[0], groups[0] + groups[1])
    parts = [
        depthwise_conv2d(part, kernel, precision=precision, implementation=implementation)
        for part, kernel in zip(jnp.split(mixed, cuts, -1), (square, row, column))
    ]
    return jnp.concatenate([rest, *parts] if identity == "first" else [*parts, rest], -1)
