"""Claims of the papers that choose few of many channels or experts."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import Finding, claim
from scanmax import ops


@claim("sigma-moe-is-an-mlp", paper="sigma-moe-pkm")
def sigma_moe_is_an_mlp(quick):
    """All experts with gates of 1 are the MLP of their channels; product keys miss no key."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel, out = (
            jnp.asarray(rng.normal(size=shape)) for shape in ((5, 6), (4, 6, 3), (4, 3, 6))
        )
        y = ops.dropless_experts(x, jnp.ones((5, 4)), kernel, out, top_k=4)
        hidden = jax.nn.relu(x @ jnp.moveaxis(kernel, 0, 1).reshape(6, 12))
        error = float(jnp.abs(y - hidden @ out.reshape(12, 6)).max())
    halves = rng.normal(size=(2, 200, 64)).astype(np.float32)
    sums = (halves[0][:, :, None] + halves[1][:, None]).reshape(200, -1)
    found = np.asarray(ops.product_key_top_k(*halves, top_k=32)[0])
    missed = int((found != -np.sort(-sums, -1)[:, :32]).sum())
    return [
        Finding("difference from the dense MLP", "0", f"{error:.0e}", error < 1e-12),
        Finding(
            "of the 32 best of 4096 keys, for 200 tokens, missed", "0", str(missed), not missed
        ),
    ]


@claim("noisy-gates-balance", paper="sparsely-gated-moe")
def noisy_gates_balance(quick):
    """Descent on the losses of importance and load spreads tokens over experts."""
    x = jax.random.normal(jax.random.key(0), (256, 8)) + 1
    start = jax.random.normal(jax.random.key(1), (2, 8, 8))

    def counts(weights, noise):
        gates = ops.expert_gates(ops.noisy_logits(*(x @ w for w in weights), noise), top_k=2)
        return gates, jnp.sum(gates != 0, 0)

    def loss(weights, noise):
        gates, _ = counts(weights, noise)
        load = ops.expert_load(*(x @ w for w in weights), noise, top_k=2)
        return sum(ops.squared_variation(jnp.sum(part, 0)) for part in (gates, load))

    @jax.jit
    def train(weights):
        def step(weights, key):
            noise = jax.random.normal(key, (256, 8))
            return weights - 0.05 * jax.grad(loss)(weights, noise), None

        return jax.lax.scan(step, weights, jax.random.split(jax.random.key(2), 200))[0]

    shares = []
    for weights in (start, train(start)):
        _, taken = counts(weights, jax.random.normal(jax.random.key(3), (256, 8)))
        shares.append(float(jnp.max(taken) / jnp.mean(taken)))
    return [
        Finding(
            "tokens of the busiest of 8 experts over the mean, before and after",
            "17.8 without the losses, 1.14 with them, at another size",
            f"{shares[0]:.2f} and {shares[1]:.2f}",
            shares[1] < 1.3 < shares[0],
        )
    ]
