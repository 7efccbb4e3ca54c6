"""Multi-query associative recall: who can name the values of many keys, with how much memory."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim
from scanmax import ops
from scanmax.data.sequence_tasks import associative_recall
from scanmax.models import create_model

LENGTH, PAIRS, VOCABULARY, WIDTH = 64, 8, 256, 64
ATTENTION = ("attention", {"rotary_base": 10000.0})
CONVOLUTION = ("base_conv", {})


Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def recall(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """MQAR as it is trained here."""
    return associative_recall(rng, count, LENGTH, PAIRS, VOCABULARY)


def train(
    mixer: str,
    options: Mapping[str, Any],
    steps: int,
    *,
    draw: Draw = recall,
    vocab_size: int = VOCABULARY,
    width: int = WIDTH,
    heads: int = 2,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> Callable[[Draw], float]:
    """Trains two layers without MLPs; gives the share of a task's answers that are then right."""
    model = create_model(
        "lm_tiny",
        vocab_size=vocab_size,
        dim=width,
        depth=2,
        heads=heads,
        mlp_ratio=0.0,
        mixer=mixer,
        mixer_options={mixer: options},
    )
    schedule = optax.warmup_cosine_decay_schedule(0, learning_rate, steps // 10, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    def loss(params, tokens, targets):
        logits = model.apply({"params": params}, tokens)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
        asked = targets >= 0
        return (losses * asked).sum() / asked.sum()

    @jax.jit
    def step(params, state, tokens, targets):
        gradients = jax.grad(loss)(params, tokens, targets)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def answers(params, tokens):
        return model.apply({"params": params}, tokens).argmax(-1)

    rng = np.random.default_rng(seed)
    tokens, _ = draw(rng, 1)
    params = nn.unbox(model.init(jax.random.key(seed), tokens)["params"])
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state, *draw(rng, 64))

    def share(draw: Draw) -> float:
        tokens, targets = draw(np.random.default_rng(10_000), 512)
        asked = targets >= 0
        return float(np.mean(np.asarray(answers(params, tokens))[asked] == targets[asked]))

    return share


TASK = f"{PAIRS} pairs among {LENGTH} tokens, {VOCABULARY} words; the paper has up to 64 and 8192"
GUESS = 1 / PAIRS


@claim("mqar-attention-and-convolution", paper="zoology-mqar", by_hand=True)
def mqar_attention_and_convolution(quick):
    """Two layers of attention of width 64 recall; the gated convolution of equal width does not."""
    steps = 10 if quick else 1000
    attention, convolution = (train(*kind, steps)(recall) for kind in (ATTENTION, CONVOLUTION))
    return [
        Finding(
            f"recall of attention, {steps} steps ({TASK})",
            "1",
            f"{attention:.3f}",
            attention > 0.95,
        ),
        Finding(
            f"recall of base_conv, as many steps (any of the {PAIRS} values: {GUESS:.3f})",
            "well below",
            f"{convolution:.3f}",
            convolution < 0.7,
        ),
    ]


@claim("mqar-ssd-states", paper="zoology-mqar", by_hand=True)
def mqar_ssd_states(quick):
    """Trained to recall, two layers of SSD do the better the wider their states."""
    # rounding alone has moved the recall of a run by 0.05
    steps, widths, seeds = (10, (2, 8), (0,)) if quick else (2000, (1, 4, 16), (0, 1))

    def draw(rng, count):
        return associative_recall(rng, count, 32, 4, 64)

    # With two heads, of two random decays, none may remember long enough.
    options = {"draw": draw, "vocab_size": 64, "heads": 8, "learning_rate": 1e-2}

    def recalled(size, seed):
        return train("ssd", {"state_size": size}, steps, seed=seed, **options)(draw)

    found = [np.mean([recalled(size, seed) for seed in seeds]) for size in widths]
    shown = ", ".join(map(str, widths))
    return [
        Finding(
            f"recall with states of width {shown}, {steps} steps, mean of {len(seeds)} seeds (4 "
            "pairs among 32 tokens, 64 words, model width 64)",
            "rises",
            ", ".join(f"{recall:.3f}" for recall in found),
            all(low < high for low, high in itertools.pairwise(found)),
        )
    ]


def remembered(op, pairs: int, states: int, rule: bool = False) -> float:
    """Share of keys whose value is the nearest to what the state gives back, no training.

    Keys are random directions of `states` dimensions, values random ones of 64; all pairs are
    written, then every key is read once.
    """
    rng = np.random.default_rng(0)
    key = rng.normal(size=(8, pairs, 1, states))
    key = (key / np.linalg.norm(key, axis=-1, keepdims=True)).astype(np.float32)
    value = rng.normal(size=(8, pairs, 1, 64)).astype(np.float32)
    ones = np.ones((8, pairs, 1), np.float32)
    if rule:
        _, state = op(key, key, value, ones, return_state=True)
    else:
        # no decay, steps of one
        _, state = op(value, ones, np.zeros(1, np.float32), key, key, return_state=True)
    read = np.einsum("bphk,bhkv->bpv", key, np.asarray(state))
    scores = np.einsum("bpv,bqv->bpq", read, value[:, :, 0])
    scores -= np.square(value[:, :, 0]).sum(-1)[:, None] / 2
    return float(np.mean(scores.argmax(-1) == np.arange(pairs)))


@claim("recall-by-state-width", paper="zoology-mqar")
def recall_by_state_width(quick):
    """What a recurrence can recall rises with the width of its state."""
    pairs, widths = 128, (4, 16, 64)
    found = [remembered(ops.ssd, pairs, states) for states in widths]
    delta = [remembered(ops.delta_rule, pairs, states, rule=True) for states in widths]

    def listed(recalls):
        return ", ".join(f"{recall:.3f}" for recall in recalls)

    shown = ", ".join(map(str, widths))
    return [
        Finding(
            f"{pairs} random pairs written into ssd, read back at {shown} states",
            "rises",
            listed(found),
            all(low < high for low, high in itertools.pairwise(found)),
        ),
        Finding(
            f"the same written by the delta rule, {shown} states",
            "rises",
            listed(delta),
            all(low <= high for low, high in itertools.pairwise(delta)) and delta[0] < delta[-1],
        ),
    ]
