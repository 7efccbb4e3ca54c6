"""What an evaluator is given, and what it gives."""

import dataclasses
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """An evaluation by name. A subclass is one file, and one name of EVALUATORS.

    Attributes:
      final: whether it runs at the end of the run alone, being dear.

    What a subclass says of itself:
      metric_names: what it returns.
    """

    final: bool = False

    metric_names: ClassVar[tuple[str, ...]] = ()

    def __call__(self, run: Any, state: Any) -> dict[str, float]:
        """Figures of the state, by name; every process takes part.

        Args:
          run: the run; `run.features(state)` maps images to pooled features.
          state: the training state.
        """
        raise NotImplementedError
