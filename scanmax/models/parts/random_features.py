"""Dense layers over random features of their input, and adapters of them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scanmax import ops
from scanmax.errors import UserError
from scanmax.models.layers import (
    Dense,
    LayerNorm,
    LayerScale,
    fan_in_uniform,
    partitioned,
    zeros_init,
)
from scanmax.ops.mlp.random_features import SPECTRA, TURNS

ACTIVATIONS = ("relu", *SPECTRA)


class RandomFeatureDense(nn.Module):
    """y = phi(x) . psi: f(x W + b) as a product of random features, of which psi is learned.

    psi starts as the features of drawn weights, so that the layer starts as an estimate of a dense
    layer with its activation; `weights_of` gives those of trained ones. The directions are drawn
    once, from `seed`: they are no parameters. A kernel holds `num_features` numbers an output,
    whatever the width of the input; twice as many of estimates, unless `turn` is "weight".

    Attributes:
      features: size of the new last axis.
      num_features: M, random features.
      activation: f: "cosine", "sine" or "gaussian", estimated without bias, or "relu", the
        released map max(G x, floor) / sqrt(M) on both sides, whose mean is the arc-cosine kernel.
      turn, damping: of the estimate, as `ops.universal_random_features` has them; not of "relu".
      floor: of "relu" alone.
      radius: what inputs and weights are scaled to before all; None leaves them. Estimates need
        short ones: their variance grows as exp(|x|^2 + |w|^2).
      orthogonal: directions are orthogonal in blocks.
      seed: of the directions and frequencies.
      axes: logical axes of the kernel.
      kernel_init: of the weights whose features psi starts as.

    Reference: snnk
    """

    features: int
    num_features: int
    activation: str = "relu"
    turn: str = "input"
    damping: float = 0.0
    floor: float = 0.0
    radius: float | None = None
    orthogonal: bool = False
    seed: int = 0
    axes: tuple[str | None, str | None] = (None, "mlp")
    kernel_init: nn.initializers.Initializer = fan_in_uniform()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B K"]) -> Float[Array, "*B L"]:
        self.check()
        inputs = x.shape[-1]

        def started(key, shape, dtype):
            return self.weights_of(self.kernel_init(key, (inputs, self.features), dtype))

        phi = self.features_of(x.astype(self.dtype))
        init = partitioned(started, self.axes, (-2,), (-1,))
        kernel = self.param("kernel", init, (phi.shape[-1], self.features), self.param_dtype)
        return jnp.matmul(phi, kernel.astype(self.dtype))

    @nn.nowrap
    def check(self) -> None:
        """Refuses names that are none, and options of another activation."""
        for name, value, known in (
            ("activation", self.activation, ACTIVATIONS),
            ("turn", self.turn, TURNS),
        ):
            if value not in known:
                raise UserError(f"{name}={value!r} is not one of {', '.join(known)}")
        if self.activation == "relu" and (self.turn != "input" or self.damping):
            raise UserError("turn and damping are of estimates: activation='relu' has floor alone")
        if self.activation != "relu" and self.floor:
            raise UserError(f"floor is of activation='relu', not of {self.activation!r}")

    @nn.nowrap
    def draws(self, inputs: int, dtype: Any) -> tuple[Array, tuple[Array, ...]]:
        """The directions [M, K], and the frequencies, amplitudes and phases; none of "relu"."""
        directions, waves = jax.random.split(jax.random.key(self.seed))
        shape = (self.num_features, inputs)
        # Constants of the program, not drawn again at every step.
        with jax.ensure_compile_time_eval():
            if self.orthogonal:
                projection = ops.orthogonal_random_features(directions, *shape, dtype=dtype)
            else:
                projection = jax.random.normal(directions, shape, dtype)
            if self.activation == "relu":
                return projection, ()
            given = {"activation": self.activation, "dtype": dtype}
            return projection, ops.fourier_samples(waves, self.num_features, **given)

    @nn.nowrap
    def scaled(self, x: Array) -> Array:
        """Rows of length `radius`."""
        if self.radius is None:
            return x
        squares = jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))).sum(-1)
        # The smallest that torch's normalize divides by.
        scale = self.radius * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
        return x * scale[..., None].astype(x.dtype)

    @nn.nowrap
    def features_of(self, x: Float[Array, "*B K"]) -> Float[Array, "*B F"]:
        """phi(x)."""
        projection, waves = self.draws(x.shape[-1], jnp.promote_types(x.dtype, jnp.float32))
        x = self.scaled(x)
        if self.activation == "relu":
            return ops.relu_random_features(x, projection, floor=self.floor)
        options = {"turn": self.turn, "damping": self.damping}
        return ops.universal_random_features(x, projection, waves[0], **options)

    @nn.nowrap
    def weights_of(
        self, kernel: Float[Array, "K L"], bias: Float[Array, " L"] | None = None
    ) -> Float[Array, "F L"]:
        """psi, this layer's kernel, of a dense layer's; the map of "relu" has no bias."""
        projection, waves = self.draws(
            kernel.shape[0], jnp.promote_types(kernel.dtype, jnp.float32)
        )
        rows = self.scaled(kernel.T)
        if self.activation == "relu":
            if bias is not None:
                raise UserError("activation='relu' has no place for a bias")
            return ops.relu_random_features(rows, projection, floor=self.floor).T
        options = {"turn": self.turn, "damping": self.damping}
        return ops.universal_random_weights(rows.T, projection, *waves, bias, **options)


class SnnkAdapter(nn.Module):
    """x plus a small layer over random features of it, which starts as x.

    What is learned of a trained model whose own parameters stay: `adapter={"num_features": 16}` of
    a host puts one behind each mixer and each MLP. With `down` it is M down + down D + D numbers,
    without it M D + D; of estimates M counts twice, unless `turn` is "weight".

    Attributes:
      num_features: M, random features.
      down: width between the layer and a dense one back to D, which starts as 0; None has the layer
        give D channels, each scaled by a number that starts as 0.
      norm: a layer norm before the features.
      activation, turn, damping, floor, radius, orthogonal, seed: as in `RandomFeatureDense`.

    Reference: snnk
    """

    num_features: int = 16
    down: int | None = None
    norm: bool = False
    activation: str = "relu"
    turn: str = "input"
    damping: float = 0.0
    floor: float = 0.0
    radius: float | None = None
    orthogonal: bool = False
    seed: int = 0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = x.shape[-1]
        y = LayerNorm(name="norm", **dtypes)(x) if self.norm else x
        y = RandomFeatureDense(
            self.down or width,
            self.num_features,
            activation=self.activation,
            turn=self.turn,
            damping=self.damping,
            floor=self.floor,
            radius=self.radius,
            orthogonal=self.orthogonal,
            seed=self.seed,
            axes=(None, "mlp" if self.down else "embed"),
            name="down",
            **dtypes,
        )(y)
        if self.down:
            y = Dense(width, ("mlp", "embed"), kernel_init=zeros_init, name="up", **dtypes)(y)
        else:
            y = LayerScale(0.0, name="gate", **dtypes)(y)
        return x + y.astype(x.dtype)
