"""What a transform is given, and what it gives."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from scanmax.train.optim import check_pattern, matches, param_path


@dataclasses.dataclass(frozen=True)
class Transform:
    """A change of the parameters before use. A subclass is one file, and one name of TRANSFORMS."""

    def init(self, params: Any) -> Any:
        """Arrays that it carries without learning, such as masks; {} for none."""
        return {}

    def __call__(self, params: Any, state: Any) -> Any:
        """The parameters that are used.

        Args:
          params: the parameters that are trained.
          state: what `init` made.

        Returns:
          A tree of the same names and shapes. Gradients flow through it to the trained ones.
        """
        raise NotImplementedError

    def check(self, params: Any, field: str) -> None:
        """Refuses rules that match no parameter.

        Raises:
          UserError: such a rule.
        """


def transformed(transforms: Sequence[Transform], params: Any, carried: dict[str, Any]) -> Any:
    """The parameters behind every transform, in order; their state lies under "transforms"."""
    states = carried.get("transforms", {})
    for index, transform in enumerate(transforms):
        params = transform(params, states.get(str(index), {}))
    return params


def map_matching(function: Callable[[str, Any], Any], patterns: Sequence[str], params: Any) -> Any:
    """Applies a function of (path, parameter) where one of the patterns matches the path."""

    def apply(path, leaf):
        name = param_path(path)
        return function(name, leaf) if matches(patterns, name) else leaf

    return jax.tree_util.tree_map_with_path(apply, params)


def check_patterns(patterns: Sequence[str], params: Any, field: str) -> None:
    """Raises UserError for a pattern that matches no parameter."""
    paths = [param_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        check_pattern(field, pattern, paths)
