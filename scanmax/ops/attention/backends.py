"""Which backend evaluates a call of `dot_product_attention`: of those that serve, the best."""

from scanmax.ops.attention.cudnn import cudnn_obstacles
from scanmax.ops.attention.native import native_obstacles
from scanmax.ops.attention.pallas import pallas_obstacles, unasked_obstacles
from scanmax.ops.contract import check_implementation, first_available

# What of a call's own arguments a backend does not know.
UNKNOWN = {
    "cudnn": (
        "bias",
        "mask",
        "query_seq_lengths",
        "key_value_seq_lengths",
        "segment_ids",
        "logits_soft_cap",
        "precision",
        "form='parallel'",
    ),
    "pallas": ("bias", "precision", "chunk_size", "form='parallel'"),
    "cpu": ("bias", "logits_soft_cap", "precision", "chunk_size", "form='parallel'"),
}


def chosen(implementation, query, key, value, mask, normalizer, window, given) -> str:
    """The backend of a call: the first asked for that serves; unasked, the best that does.

    Args:
      implementation: what was asked for.
      query: [*B, T, H, K], checked like all that follow.
      key: [*B, S, G, K].
      value: [*B, S, G, V].
      mask: of full rank, or None.
      normalizer: a `Normalizer`.
      window: (left, right), causality included.
      given: name of an argument -> whether the call has it.

    Raises:
      ValueError: an implementation that no op knows.
      NotImplementedError: none asked for serves; the message says what each lacks.
    """
    arrays = (query, key, value, normalizer, window)
    names = (implementation,) if isinstance(implementation, str) else implementation or ()
    obstacles = {
        # cuDNN's fully masked rows are not zero, so that it gets no masks at all
        "cudnn": cudnn_obstacles(*arrays),
        "pallas": pallas_obstacles(*arrays, interpreted=implementation == "pallas"),
        "cpu": native_obstacles(*arrays, asked="cpu" in names),
    }
    for name, unknown in UNKNOWN.items():
        obstacles[name] += [argument for argument in unknown if given.get(argument)]
    if mask is not None and (mask.shape[-3:-1] != (1, 1) or mask.shape[-1] != key.shape[-3]):
        for name in ("pallas", "cpu"):
            obstacles[name].append("a mask other than of keys, [*B, 1, 1, S]")
    available = ("xla", *(name for name, found in obstacles.items() if not found))
    check_implementation("dot_product_attention", implementation, available, obstacles)
    if implementation is not None:
        return first_available(implementation, available)
    if any(there and name.startswith(("form=", "chunk_size")) for name, there in given.items()):
        return "xla"
    if "pallas" in available and not unasked_obstacles(query, key, normalizer):
        return "pallas"
    if "cpu" in available:
        return "cpu"
    return "cudnn" if "cudnn" in available else "xla"
