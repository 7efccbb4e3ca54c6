"""Taps: named activations that can be read, and whose gradients can be read, from any model."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array


def tap(module: nn.Module, name: str, x: Array) -> Array:
    """Lets `x` be read from outside, differentiated and replaced, under `name`.

    The value is sown into the collection "intermediates". Where the caller passes a collection
    "taps" with an array of this path, that array is added: zeros leave the value as it is, and the
    gradient with respect to them is the gradient of the activation. It holds under remat and
    scan_layers too, where an intercepted method would leak tracers. A collection "replaced", as
    `write_tap` makes it, puts another value in its place, and no gradient reaches what was there.

    Args:
      module: the module that calls it, inside its `__call__`.
      name: of the tap within the module.
      x: the activation.

    Returns:
      x, plus the tap's array where one was given, or what replaces it.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> class Twice(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return jnp.sum(tap(self, "output", 2 * x) ** 2)
      >>> zeros = {"taps": {"output": jnp.zeros(2)}}
      >>> jax.grad(lambda taps: Twice().apply(taps, jnp.ones(2)))(zeros)["taps"]["output"].tolist()
      [4.0, 4.0]
    """
    if module.has_variable("taps", name) and not module.is_initializing():
        x = x + module.get_variable("taps", name).astype(x.dtype)
    if module.has_variable("replaced", name) and not module.is_initializing():
        chosen, value = module.get_variable("replaced", name)
        x = jnp.where(chosen, value.astype(x.dtype), x)
    module.sow("intermediates", name, x)
    return x


def read_taps(intermediates: Mapping[str, Any]) -> dict[str, Array]:
    """The last value sown at each path, "block_03/output" -> array, however layers are stored.

    Layers that are scanned sow one stacked array under "blocks": it is cut again into "block_00",
    "block_01", ...

    Args:
      intermediates: the collection "intermediates" of a call.

    Returns:
      Path -> activation, in the order of the paths.

    >>> import jax.numpy as jnp
    >>> list(read_taps({"stem": (1.0,), "blocks": {"output": (jnp.zeros((2, 3)),)}}))
    ['block_00/output', 'block_01/output', 'stem']
    """
    found: dict[str, Array] = {}
    for path, sown in _leaves(intermediates, ()):
        value = sown[-1] if isinstance(sown, tuple) else sown
        head, *rest = path
        if rest and head.endswith("blocks"):
            for index in range(value.shape[0]):
                found["/".join((f"{head[:-1]}_{index:02d}", *rest))] = value[index]
        else:
            found["/".join(path)] = value
    return dict(sorted(found.items()))


def write_tap(intermediates: Mapping[str, Any], path: str, value: Array) -> dict[str, Any]:
    """The collection "replaced" under which the activation at a path is another.

    Args:
      intermediates: the collection "intermediates" of a call with the same inputs.
      path: as `read_taps` names it.
      value: what the activation shall be, of its shape.

    Returns:
      Pairs (whether it is replaced, the value), where the module looks for them; of scanned layers
      for each of them.

    Raises:
      KeyError: no such path.

    >>> import jax.numpy as jnp
    >>> write_tap({"stem": (jnp.ones(1),)}, "stem", 3 * jnp.ones(1))["stem"][1].tolist()
    [3.0]
    """
    for parts, sown in _leaves(intermediates, ()):
        found = sown[-1] if isinstance(sown, tuple) else sown
        head, *rest = parts
        if rest and head.endswith("blocks"):
            names = [
                "/".join((f"{head[:-1]}_{index:02d}", *rest)) for index in range(found.shape[0])
            ]
            if path not in names:
                continue
            index = names.index(path)
            chosen = jnp.arange(len(names)) == index
            taps: Any = (chosen, jnp.zeros_like(found).at[index].set(value))
        elif path == "/".join(parts):
            taps = (jnp.asarray(True), value)
        else:
            continue
        for name in reversed(parts):
            taps = {name: taps}
        return taps
    raise KeyError(path)


def _leaves(tree: Any, path: tuple[str, ...]):
    if isinstance(tree, Mapping):
        for name, child in tree.items():
            yield from _leaves(child, (*path, name))
    else:
        yield path, tree
