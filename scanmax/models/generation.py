"""Sampling from language models: one pass over the prompt, then a scan of single-token steps."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scanmax.models.statistics import at_least_float32


def generate(
    model: nn.Module,
    variables: Any,
    prompt: Int[Array, "B T"] | Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    attention_mask: Int[Array, "B T"] | None = None,
    key: Array | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token: int | None = None,
) -> Int[Array, "B T+max_new_tokens"] | list[Int[Array, "_"]]:
    """Continues each prompt: prefill, then one step per token, in one compiled program.

    Each token is drawn in float32 from softmax(logits / temperature), restricted to the top_k most
    probable tokens and then to the fewest whose probabilities reach top_p.

    Prompts may differ in length: each is continued as if alone, with any causal mixer. Where every
    mixer keeps sequences apart that share a row (`Mixer.packs`), they are read in one pass with
    padding on their left. Others read together as far as the shortest goes, and from there token by
    token, the longer prompts still reading while the shorter ones draw.

    Args:
      model: a language model with the `prefill` and `step` of `LanguageModel`; any causal mixer.
      variables: its variables.
      prompt: the tokens to continue, T >= 1; or a list of prompts of any lengths.
      max_new_tokens: how many tokens to draw for each.
      attention_mask: 0 where a row of `prompt` is padding, which stands on the left, 1 where not,
        as tokenizers of transformers give it with padding_side="left".
      key: random key; needed unless temperature is 0.
      temperature: 0 takes the most probable token (greedy); changing it does not recompile.
      top_k: None keeps every token.
      top_p: None keeps every token.
      eos_token: a sequence that draws it is filled with it from there on.

    Returns:
      The prompts, padded as they were, and what follows them; of a list a list of arrays.

    Raises:
      ValueError: an argument out of its range, a prompt that is not [B, T], a mask that does not
        fit or pads on the right, or no key to draw with.

    Example:
      >>> import jax, jax.numpy as jnp, scanmax
      >>> model = scanmax.create_model("mamba2_130m", dim=16, depth=2, heads=4, vocab_size=32)
      >>> prompt = jnp.array([[1, 2, 3]])
      >>> variables = jax.jit(model.init)(jax.random.key(0), prompt)
      >>> generate(model, variables, prompt, max_new_tokens=5, temperature=0).shape
      (1, 8)
      >>> texts = generate(model, variables, [[1, 2, 3], [4]], max_new_tokens=5, temperature=0)
      >>> [len(text) for text in texts]
      [8, 6]

    Reference: mamba2-ssd
    """
    is_list = not hasattr(prompt, "ndim")
    if is_list:
        if attention_mask is not None:
            raise ValueError("attention_mask: a list of prompts has no padding; give an array.")
        prompt, attention_mask = _padded(prompt)
    prompt = jnp.asarray(prompt)
    if prompt.ndim != 2 or prompt.shape[1] < 1 or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise ValueError(
            f"prompt has shape {prompt.shape} and dtype {prompt.dtype}; expected integers [B, T]."
        )
    for name in ("prefill", "step"):
        if not hasattr(model, name):
            raise ValueError(f"{type(model).__name__} has no {name}: it cannot generate.")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}; expected at least 1.")
    if temperature < 0:
        raise ValueError(f"temperature={temperature}; expected 0 (greedy) or more.")
    if temperature > 0 and key is None:
        raise ValueError("key=None: drawing needs a random key; temperature=0 needs none.")
    _check_restrictions(top_k, top_p)
    lengths = _lengths(attention_mask, prompt.shape)
    total = prompt.shape[1]
    read, ends, segments = prompt, np.full_like(lengths, total), None
    if lengths.min(initial=total) < total:
        if getattr(model, "packs", False):
            # Padding is a sequence of its own in front of the prompt's, of any token there is.
            own = jnp.asarray(np.arange(total)[None] >= (total - lengths)[:, None])
            read, segments = jnp.where(own, prompt, 0), own.astype(jnp.int32)
        else:
            # Every prompt from place 0 on; what stands behind its end is never read.
            ends, shift = lengths, (np.arange(total)[None] - lengths[:, None]) % total
            read = jnp.take_along_axis(prompt, jnp.asarray(shift), axis=1)
    new = _generate(
        model,
        variables,
        read,
        jnp.asarray(ends, jnp.int32),
        segments,
        jax.random.key(0) if key is None else key,
        jnp.asarray(temperature, jnp.float32),
        shortest=int(ends.min(initial=total)),
        max_new_tokens=max_new_tokens,
        greedy=temperature == 0,
        top_k=top_k,
        top_p=top_p,
        eos_token=eos_token,
    )
    tokens = jnp.concatenate([prompt, new.astype(prompt.dtype)], axis=1)
    if is_list:
        return [row[prompt.shape[1] - length :] for row, length in zip(tokens, lengths)]
    return tokens


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as rows with zeros on their left, and which tokens are theirs."""
    rows = [np.asarray(row) for row in prompts]
    for index, row in enumerate(rows):
        if row.ndim != 1 or not row.size or not np.issubdtype(row.dtype, np.integer):
            raise ValueError(
                f"prompt {index} has shape {row.shape} and dtype {row.dtype}; expected integers "
                "[T] with T >= 1."
            )
    if not rows:
        raise ValueError("prompt=[]: expected at least one.")
    longest = max(row.size for row in rows)
    before = [longest - row.size for row in rows]
    tokens = np.stack([np.pad(row, (count, 0)) for row, count in zip(rows, before)])
    return tokens.astype(np.int32), np.arange(longest) >= np.asarray(before)[:, None]


def _lengths(mask: Any, shape: tuple[int, int]) -> np.ndarray:
    """How many tokens each row has, behind its padding."""
    if mask is None:
        return np.full(shape[0], shape[1])
    try:
        mask = np.asarray(mask)
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            "attention_mask is traced: lengths shape the program, so it must be known under jit."
        ) from error
    if mask.shape != shape:
        raise ValueError(
            f"attention_mask has shape {mask.shape}; expected that of prompt, {shape}."
        )
    kept = mask != 0
    if not kept[:, -1].all() or (kept[:, :-1] & ~kept[:, 1:]).any():
        raise ValueError("attention_mask: padding stands on the left, zeros and then ones.")
    return kept.sum(axis=1)


def restrict(
    logits: Float[Array, "*B V"], *, top_k: int | None = None, top_p: float | None = None
) -> Float[Array, "*B V"]:
    """Gives -inf to the tokens that top-k and then top-p (nucleus) sampling leave out.

    Top-p keeps the most probable tokens up to and with the one at which their sum reaches top_p, so
    that at least one is left. Equals share a fate at the edge of either.

    Args:
      logits: scores of the tokens.
      top_k: how many to keep; None keeps all.
      top_p: probability to keep, in (0, 1]; None keeps all.

    Returns:
      The logits, -inf where a token is left out.

    Raises:
      ValueError: top_k below 1, or top_p outside (0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> restrict(jnp.log(jnp.array([0.5, 0.3, 0.2])), top_p=0.6)
      Array([-0.6931472, -1.2039728,       -inf], dtype=float32)
    """
    _check_restrictions(top_k, top_p)
    given, logits = logits.dtype, logits.astype(at_least_float32(logits.dtype))
    if top_k is not None and top_k < logits.shape[-1]:
        threshold = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if top_p is not None and top_p < 1:
        ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        probability = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        kept = jnp.where(before < top_p, ordered, jnp.inf)
        logits = jnp.where(logits < kept.min(axis=-1, keepdims=True), -jnp.inf, logits)
    return logits.astype(given)


def _check_restrictions(top_k: int | None, top_p: float | None) -> None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}; expected at least 1, or None.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}; expected a probability in (0, 1], or None.")


@functools.partial(
    jax.jit,
    static_argnames=(
        "model",
        "shortest",
        "max_new_tokens",
        "greedy",
        "top_k",
        "top_p",
        "eos_token",
    ),
)
def _generate(
    model,
    variables,
    prompt,
    ends,
    segments,
    key,
    temperature,
    *,
    shortest,
    max_new_tokens,
    greedy,
    top_k,
    top_p,
    eos_token,
):
    """What follows each row of prompt, whose own tokens go as far as `ends`: [B, new]."""

    def draw(key, logits):
        logits = logits.astype(at_least_float32(logits.dtype))
        if greedy:
            return jnp.argmax(logits, axis=-1)
        logits = logits / temperature.astype(logits.dtype)
        return jax.random.categorical(key, restrict(logits, top_k=top_k, top_p=top_p))

    def settle(key, logits, done, place):
        """The token at `place` of each row: the prompt's own while it lasts, else one drawn."""
        token = draw(key, logits).astype(prompt.dtype)
        if eos_token is not None:
            token = jnp.where(done, eos_token, token)
            done = done | ((token == eos_token) & (place >= ends))
        own = jax.lax.dynamic_index_in_dim(prompt, place, axis=1, keepdims=False)
        return jnp.where(place < ends, own, token), done

    def body(carry, inputs):
        (key, place), (state, token, done) = inputs, carry
        logits, state = model.apply(variables, state, token, method="step")
        token, done = settle(key, logits, done, place)
        return (state, token, done), token

    room = prompt.shape[1] + max_new_tokens
    packed = {} if segments is None else {"segment_ids": segments}
    logits, state = model.apply(
        variables, prompt[:, :shortest], room, last_only=True, method="prefill", **packed
    )
    keys = jax.random.split(key, room - shortest)
    token, done = settle(keys[0], logits, jnp.zeros(prompt.shape[0], bool), shortest)
    later = jnp.arange(shortest + 1, room)
    _, rest = jax.lax.scan(body, (state, token, done), (keys[1:], later))
    tokens = jnp.concatenate([token[:, None], rest.T], axis=1)
    drawn = ends[:, None] - shortest + jnp.arange(max_new_tokens)[None]
    return jnp.take_along_axis(tokens, drawn, axis=1)
