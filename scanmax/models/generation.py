"""Sampling from language models: one pass over the prompt, then a scan of single-token steps."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def generate(
    model: nn.Module,
    variables: Any,
    prompt: Int[Array, "B T"],
    *,
    max_new_tokens: int,
    key: Array | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token: int | None = None,
) -> Int[Array, "B T+max_new_tokens"]:
    """Continues each prompt: prefill, then one step per token, in one compiled program.

    Each token is drawn from softmax(logits / temperature), restricted to the top_k most probable
    tokens and then to the fewest whose probabilities reach top_p.

    Args:
      model: a language model with the `prefill` and `step` of `LanguageModel`; any causal mixer.
      variables: its variables.
      prompt: the tokens to continue, T >= 1.
      max_new_tokens: how many tokens to draw.
      key: random key; needed unless temperature is 0.
      temperature: 0 takes the most probable token (greedy); changing it does not recompile.
      top_k: None keeps every token.
      top_p: None keeps every token.
      eos_token: a sequence that draws it is filled with it from there on.

    Returns:
      The prompts and what follows them.

    Raises:
      ValueError: an argument out of its range, a prompt that is not [B, T], or no key to draw with.

    Example:
      >>> import jax, jax.numpy as jnp, scanmax
      >>> model = scanmax.create_model("mamba2_130m", dim=16, depth=2, heads=4, vocab_size=32)
      >>> prompt = jnp.array([[1, 2, 3]])
      >>> variables = jax.jit(model.init)(jax.random.key(0), prompt)
      >>> generate(model, variables, prompt, max_new_tokens=5, temperature=0).shape
      (1, 8)

    Reference: mamba2-ssd
    """
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
    new = _generate(
        model,
        variables,
        prompt,
        jax.random.key(0) if key is None else key,
        jnp.asarray(temperature, jnp.float32),
        max_new_tokens=max_new_tokens,
        greedy=temperature == 0,
        top_k=top_k,
        top_p=top_p,
        eos_token=eos_token,
    )
    return jnp.concatenate([prompt, new.astype(prompt.dtype)], axis=1)


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
    if top_k is not None and top_k < logits.shape[-1]:
        threshold = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if top_p is not None and top_p < 1:
        ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        probability = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        kept = jnp.where(before < top_p, ordered, jnp.inf)
        logits = jnp.where(logits < kept.min(axis=-1, keepdims=True), -jnp.inf, logits)
    return logits


def _check_restrictions(top_k: int | None, top_p: float | None) -> None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}; expected at least 1, or None.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}; expected a probability in (0, 1], or None.")


@functools.partial(
    jax.jit, static_argnames=("model", "max_new_tokens", "greedy", "top_k", "top_p", "eos_token")
)
def _generate(
    model, variables, prompt, key, temperature, *, max_new_tokens, greedy, top_k, top_p, eos_token
):
    def draw(key, logits):
        if greedy:
            return jnp.argmax(logits, axis=-1)
        logits = logits / temperature.astype(logits.dtype)
        return jax.random.categorical(key, restrict(logits, top_k=top_k, top_p=top_p))

    def settle(token, done):
        if eos_token is None:
            return token, done
        token = jnp.where(done, eos_token, token)
        return token, done | (token == eos_token)

    def body(carry, key):
        state, token, done = carry
        logits, state = model.apply(variables, state, token, method="step")
        token, done = settle(draw(key, logits), done)
        return (state, token, done), token

    length = prompt.shape[1] + max_new_tokens
    logits, state = model.apply(variables, prompt, length, last_only=True, method="prefill")
    keys = jax.random.split(key, max_new_tokens)
    token, done = settle(draw(keys[0], logits), jnp.zeros(prompt.shape[0], bool))
    _, rest = jax.lax.scan(body, (state, token, done), keys[1:])
    return jnp.concatenate([token[:, None], rest.T], axis=1)
