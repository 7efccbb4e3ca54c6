"""What is known of the token mixers by name, as `registry` knows the models."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

from scanmax.errors import UserError, suggest
from scanmax.fields import field_meanings
from scanmax.models.mixers import MIXERS, Mixer

# Set by the host that holds the mixer.
_OF_THE_HOST = ("heads", "prefix_tokens", "is_causal", "parent", "name")


@dataclasses.dataclass(frozen=True)
class MixerInfo:
    """What is known of a token mixer without building it.

    Attributes:
      name: the name that hosts take as `mixer=`.
      formula: what it computes, in one line.
      cost: growth of its time with the tokens T.
      causal: whether it has a causal form (`is_causal=True`; language models need one).
      generates: whether it goes on token by token from a state.
      packs: whether its causal form keeps the sequences of a packed row apart (`segment_ids=`).
      options: its own fields and their defaults, set by `mixer_options={name: {...}}`.
      papers: ids of its papers in the roster.
      module: the Flax module.
    """

    name: str
    formula: str
    cost: str
    causal: bool
    generates: bool
    packs: bool
    options: Mapping[str, Any]
    papers: tuple[str, ...]
    module: type[Mixer]

    def option_meanings(self) -> dict[str, str]:
        """Option -> what its docstring says of it; "" where it says nothing."""
        meanings: dict[str, str] = {}
        for kind in reversed(self.module.__mro__):
            if kind.__doc__ and issubclass(kind, Mixer):
                meanings |= field_meanings(kind)
        return {option: meanings.get(option, "") for option in self.options}


def list_mixers(
    pattern: str = "*",
    *,
    causal: bool | None = None,
    generates: bool | None = None,
    packs: bool | None = None,
) -> list[str]:
    """Names of the token mixers, sorted.

    Args:
      pattern: shell wildcards, as in "mamba*".
      causal: only those with a causal form, or only those without; None lists both.
      generates: the same for those that go on token by token from a state.
      packs: the same for those that keep the sequences of a packed row apart.

    Returns:
      The names; empty when none matches.

    Example:
      >>> import scanmax
      >>> scanmax.list_mixers("mamba*", causal=True)
      ['mamba', 'mamba2']
    """
    wanted = {"causal": causal, "generates": generates, "packs": packs}
    return [
        name
        for name in sorted(MIXERS)
        if fnmatch.fnmatchcase(name, pattern)
        and all(is_so in (None, getattr(mixer_info(name), key)) for key, is_so in wanted.items())
    ]


def mixer_info(name: str) -> MixerInfo:
    """What is known of a token mixer: formula, cost, forms, options, papers.

    Args:
      name: a name that list_mixers() shows.

    Returns:
      A frozen MixerInfo.

    Raises:
      UserError: an unknown name; the message lists near matches.

    Example:
      >>> import scanmax
      >>> scanmax.mixer_info("retention").cost
      'T'
    """
    if name not in MIXERS:
        raise UserError(f"unknown mixer {name!r}; {suggest(name, MIXERS)}")
    module = MIXERS[name]
    causal = module.causal_form
    return MixerInfo(
        name=name,
        formula=module.formula,
        cost=module.cost,
        causal=causal,
        generates=causal and module.init_state is not Mixer.init_state,
        packs=causal and module.packs,
        options={
            field.name: field.default
            if field.default_factory is dataclasses.MISSING
            else field.default_factory()
            for field in dataclasses.fields(module)
            if field.init and field.name not in _OF_THE_HOST
        },
        papers=module.papers,
        module=module,
    )
