"""The project's test levels as public chex test cases: subclass them for your own part.

`OpSuite` and `ModelSuite` need no trainer; `ObjectiveSuite`, for what hangs on its plug points, is
imported when it is first asked for.
"""

from typing import Any

from scanmax.public import shown
from scanmax.testing.model_suite import ModelCase as ModelCase
from scanmax.testing.model_suite import ModelSuite as ModelSuite
from scanmax.testing.op_case import OpCase as OpCase
from scanmax.testing.op_suite import OpSuite as OpSuite
from scanmax.testing.tolerances import Tolerances as Tolerances


def __getattr__(name: str) -> Any:
    if name in ("ObjectiveSuite", "step_loss"):
        from scanmax.testing import objective_suite

        return getattr(objective_suite, name)
    if name in ("SmallImages", "SmallMaps", "SmallNet"):
        from scanmax.testing import small_run

        return getattr(small_run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = shown(globals(), "ObjectiveSuite", "SmallImages", "SmallMaps", "SmallNet", "step_loss")


def __dir__() -> list[str]:
    return __all__
