"""Generation with the published Mamba-2 of 130 million parameters, weights drawn at random."""

import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.claims import Finding, claim
from scanmax.models import create_model


@claim("mamba2-generation-rate", paper="mamba2-ssd", by_hand=True)
def mamba2_generation_rate(quick):
    """A token costs the same however many came before it, in time and in memory."""
    sizes = {"dim": 64, "depth": 2, "heads": 2, "vocab_size": 256} if quick else {}
    lengths, count = ((8, 16), 4) if quick else ((64, 1024, 8192), 48)
    model = create_model("mamba2_130m", **sizes)
    start = jnp.zeros((1, 8), jnp.int32)
    variables = nn.unbox(jax.jit(model.init)(jax.random.key(0), start))

    @jax.jit
    def prefill(variables, tokens):
        logits, state = model.apply(variables, tokens, last_only=True, method="prefill")
        return logits.argmax(-1), state

    # The state is given away: it is updated where it lies.
    @jax.jit(donate_argnums=2)
    def step(variables, token, state):
        logits, state = model.apply(variables, state, token, method="step")
        return logits.argmax(-1), state

    at = {}
    for length in lengths:
        tokens = jax.random.randint(jax.random.key(1), (1, length), 0, model.vocab_size)
        at[length] = prefill(variables, tokens)
    held = [sum(leaf.nbytes for leaf in jax.tree.leaves(at[length][1])) for length in lengths]

    # By turns: what else the machine does meets all lengths alike.
    times = {length: [] for length in lengths}
    for _ in range(count):
        for length in lengths:
            begin = time.perf_counter()
            at[length] = jax.block_until_ready(step(variables, *at[length]))
            times[length].append(time.perf_counter() - begin)
    rates = [1 / statistics.median(times[length]) for length in lengths]
    behind = ", ".join(map(str, lengths))
    return [
        Finding(
            f"tokens per second of mamba2_130m, float32, behind {behind} tokens",
            "flat",
            ", ".join(f"{rate:.1f}" for rate in rates),
            max(rates) < 1.15 * min(rates),
        ),
        Finding(
            f"bytes of its state behind {behind} tokens",
            "constant",
            ", ".join(map(str, held)),
            len(set(held)) == 1,
        ),
    ]
