"""Hypernetworks: any module with weights that follow numbers, such as a rotation or a strength.

    model = Hypernetized(Classifier(), hidden=(16, 64, 128))
    variables = model.init(key, gamma, images)  # gamma [G], numbers in [0, 1]
    logits = model.apply(variables, gamma, images)

The numbers are those of a call. For others in each example, `jax.vmap` over both:

    jax.vmap(lambda gamma, image: model.apply(variables, gamma, image[None])[0])(gammas, images)
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import Dense

# torch's kaiming_normal_ by fan_out, of ReLU's kin; not cut off.
_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class HyperNet(nn.Module):
    """Numbers to arrays: dense layers with LeakyReLU between, and a linear head for each array.

        y_p = W_p h_n,    h_i = LeakyReLU(W_i h_{i-1} + b_i),    h_0 = E(gamma)

    Heads are drawn by what each makes alone, and have no bias: what does not depend on gamma is the
    caller's, as `Hypernetized` has it.

    Attributes:
      shapes: of the arrays, by name.
      hidden: widths of the layers.
      encoding: E, of `ops.mip_encode`; None takes gamma as it is.

    Reference: mip-hypernetworks
    """

    shapes: Mapping[str, tuple[int, ...]]
    hidden: tuple[int, ...] = (16, 64, 128)
    encoding: str | None = "cos|sin"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, gamma: Float[Array, "*B G"]) -> dict[str, Array]:
        """Arrays [*B, *shape] by name."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype, "kernel_init": _fan_out}
        y = ops.mip_encode(gamma.astype(self.dtype), encoding=self.encoding)
        for index, width in enumerate(self.hidden):
            y = Dense(width, ("embed", "mlp"), name=f"layer_{index}", **dtypes)(y)
            y = jax.nn.leaky_relu(y)
        made = {}
        for name, shape in self.shapes.items():
            head = f"head_{name.replace('/', '__')}"
            own = Dense(math.prod(shape), ("mlp", None), use_bias=False, name=head, **dtypes)(y)
            made[name] = own.reshape(*gamma.shape[:-1], *shape)
        return made


class Hypernetized(nn.Module):
    """A module whose parameters are theta = theta0 + h(gamma): its own, and what a net adds.

    theta0 starts as the module's parameters would (residual), so that with a constant length of
    what h is told, theta is of the size that the module is made for at every gamma. They are the
    module's under "primary", and may be a trained one's. Its other collections, as those of batch
    norms, are its own too.

    Attributes:
      primary: the module.
      hidden, encoding: of the `HyperNet`.
      residual: without it theta0 starts as 0, as biases of the last layer do.
      match: regular expressions of the parameters that follow gamma, as in "conv1/kernel"; the
        others are as they were.

    Raises:
      UserError: a pattern that matches no parameter, or gamma with a batch.

    Reference: mip-hypernetworks
    """

    primary: nn.Module
    hidden: tuple[int, ...] = (16, 64, 128)
    encoding: str | None = "cos|sin"
    residual: bool = True
    match: tuple[str, ...] = (".*",)

    @nn.compact
    def __call__(self, gamma: Float[Array, "G"], *args: Any, **kwargs: Any) -> Any:
        """What the module makes of the other arguments."""
        if gamma.ndim != 1:
            raise UserError(f"gamma has shape {gamma.shape}; expected [G]: jax.vmap takes batches")
        starting = self.is_mutable_collection("params")
        made: list[dict[str, Array]] = []

        def follow(collections):
            """theta of theta0."""
            own = flatten_dict(nn.unbox(collections["params"]), sep="/")
            if not made:
                shapes = {name: own[name].shape for name in self.followers(own)}
                made.append(HyperNet(shapes, self.hidden, self.encoding, name="hyper")(gamma))
            changed = {name: own[name] + x.astype(own[name].dtype) for name, x in made[0].items()}
            return {"params": unflatten_dict({**own, **changed}, sep="/")}

        def start(collections):
            """theta0 of what the module draws."""
            if self.residual:
                return collections
            own = flatten_dict(collections["params"], sep="/")
            names = self.followers(own)
            zeros = {name: jax.tree.map(jnp.zeros_like, own[name]) for name in names}
            return {"params": unflatten_dict({**own, **zeros}, sep="/")}

        run = nn.map_variables(
            lambda primary: primary(*args, **kwargs), "params", follow, start, init=starting
        )
        return run(self.primary)

    @nn.nowrap
    def followers(self, names: Any) -> list[str]:
        """Parameters that follow gamma, of all of the module's."""
        found: set[str] = set()
        for pattern in self.match:
            own = {name for name in names if re.search(pattern, name)}
            if not own:
                raise UserError(f"match={pattern!r} is none of {', '.join(sorted(names))}")
            found |= own
        return sorted(found)
