"""Auto-encoders of strings: all words at once from a code, beside word after word."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.claims import Finding, claim
from scanmax.models import create_model


class GruStep(nn.Module):
    """One word: the state and the word before give the scores of the next.

    Attributes:
      taught: the next step reads the true word, not the likeliest.
    """

    vocab_size: int
    hidden: int
    taught: bool

    @nn.compact
    def __call__(self, carry, true):
        state, word = carry
        state, _ = nn.GRUCell(self.hidden, name="cell")(state, word)
        logits = nn.Dense(self.vocab_size, name="head")(state)
        told = true if self.taught else jax.nn.one_hot(logits.argmax(-1), self.vocab_size)
        return (state, told), logits


class GruAutoencoder(nn.Module):
    """A GRU reads a string, its last state is the code, from which another writes it again.

    In training it reads the true words before each, as the paper's LSTM does, else its own.
    """

    vocab_size: int = 16
    hidden: int = 116

    @nn.compact
    def __call__(self, tokens, train: bool = False) -> Any:
        words = jax.nn.one_hot(tokens, self.vocab_size)
        cell = nn.GRUCell(self.hidden, parent=None)
        code = nn.RNN(cell, return_carry=True, name="encoder")(words)[0]
        over_words = {"variable_broadcast": "params", "split_rngs": {"params": False}}
        step = nn.scan(GruStep, in_axes=1, out_axes=1, **over_words)
        decoder = step(self.vocab_size, self.hidden, taught=train, name="decoder")
        return decoder((code, jnp.zeros_like(words[:, 0])), words)[1]


@claim("byte-autoencoder", paper="byte-recursive-conv-ae", by_hand=True)
def byte_autoencoder(quick):
    """Strings it has not seen it tells again from a code, better than a recurrent network does."""
    from benchmarks.claims.learning import best_and_last, mean, told
    from scanmax.configs import sequence_tasks

    found, counts = {}, {}
    for kind in ("recursive convolutions", "GRUs"):
        config = sequence_tasks.get_config("reconstruction")
        own = create_model(config.model.name, **config.model.kwargs)
        model = own if kind == "recursive convolutions" else GruAutoencoder()
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16), jnp.int32))
        counts[kind] = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        found[kind] = best_and_last(config, kind.replace(" ", "-"), model=model)["last"]
    own, other = found.values()
    what = (
        "words of held-out strings, 8 to 16 of 15 kinds, after 1000 steps, seeds 0 to 2, "
        "{:,} parameters against {:,}".format(*counts.values())
    )
    here = f"{told(own)}; GRUs {told(other)}"
    return [Finding(what, "above GRUs", here, mean(own) > mean(other))]
