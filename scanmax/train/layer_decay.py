"""Rates that fall with the depth of a layer: what fine-tuning of a trained network leaves alone."""

import re

from scanmax.errors import UserError

# Scopes of a model: "stage0_block_01"; "blocks" where the layers are stacked.
_BLOCK = re.compile(r"(?:stage(\d+)_)?(class_)?block(?:s|_(\d+))")
_STAGE = re.compile(r"(?:stage|downsample)(\d+)(?:_.*)?")
_TOP = re.compile(r"fc_norm|([a-z]+_)?(head|classifier|pooler|hidden)\w*")


def layer_depths(stacked: dict[str, int]) -> tuple[dict[str, range], int]:
    """How deep each parameter lies: 0 for stems and embeddings, 1 to L for blocks, L + 1 for heads.

    As timm counts: what stands between two stages belongs to the first block behind it, the last
    norm to the last block. Where the layers of a stage are of several kinds, a stage counts as one;
    a block of two layers, as Swin's, counts as one too.

    Args:
      stacked: path -> how many layers the parameter holds along its first axis, 1 where it is of
        one: those that `scan_layers` has stacked hold several.

    Returns:
      (path -> depths, one for each layer that the parameter holds; the depth L + 1).

    Raises:
      UserError: the model has no blocks and no stages.

    >>> depths, top = layer_depths({"embed/kernel": 1, "blocks/fc/kernel": 2, "head/kernel": 1})
    >>> {path: list(depth) for path, depth in depths.items()}, top
    ({'embed/kernel': [0], 'blocks/fc/kernel': [1, 2], 'head/kernel': [3]}, 3)
    """
    is_around = any(path.startswith("model/") for path in stacked)
    scopes = {path: _scope(path, is_around) for path in stacked}
    by_stage = any(
        scope.startswith("stage") and not _BLOCK.fullmatch(scope) for scope in scopes.values()
    )
    keys = {path: _key(scope, by_stage) for path, scope in scopes.items()}
    sizes: dict[tuple[int, int, int], int] = {}
    for path, key in keys.items():
        if key is not None:
            sizes[key] = max(sizes.get(key, 1), stacked[path])
    if not sizes:
        raise UserError(
            "config.optim.layer_decay: this model has no blocks or stages whose depth could count; "
            "set rates by config.optim.lr_multipliers"
        )
    first, total = {}, 0
    for key in sorted(sizes):
        first[key] = total + 1
        total += sizes[key]
    stages = {}
    for key in sorted(first, reverse=True):
        stages[key[1]] = first[key]
    depths = {}
    for path, key in keys.items():
        if key is not None:
            depths[path] = range(first[key], first[key] + stacked[path])
            continue
        stage = _STAGE.fullmatch(scopes[path])
        if _TOP.fullmatch(scopes[path]):
            here = total + 1
        elif scopes[path].startswith("norm"):
            here = total
        else:
            here = stages.get(int(stage[1]), 0) if stage else 0
        depths[path] = range(here, here + 1)
    return depths, total + 1


def _scope(path: str, is_around: bool) -> str:
    """The part of the model that a path lies in; what an objective adds around it is a head."""
    if is_around:
        first, _, path = path.partition("/")
        if first != "model":
            return "head"
    return path.split("/")[0]


def _key(scope: str, by_stage: bool) -> tuple[int, int, int] | None:
    """Sorts blocks by depth; None for what is none."""
    if by_stage:
        found = _STAGE.fullmatch(scope)
        return (0, int(found[1]), 0) if found else None
    found = _BLOCK.fullmatch(scope)
    if not found:
        return None
    stage, is_class, index = found.groups()
    return (1 if is_class else 0, int(stage or 0), int(index or 0))


def layer_factors(decay: float, stacked: dict[str, int]) -> dict[str, tuple[float, ...]]:
    """Path -> factors of the rate, decay^(L + 1 - depth), one for each layer that it holds.

    >>> layer_factors(0.5, {"block_00/kernel": 1, "block_01/kernel": 1, "head/kernel": 1})
    {'block_00/kernel': (0.25,), 'block_01/kernel': (0.5,), 'head/kernel': (1.0,)}
    """
    depths, top = layer_depths(stacked)
    return {path: tuple(decay ** (top - depth) for depth in depths[path]) for path in stacked}
