"""A row of the ledger."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Paper:
    """A row of the ledger.

    Attributes:
      key: id of the paper, one of TITLES.
      covers: which part of the paper the code holds.
      where: dotted names of the code.
      tests: pytest node ids that verify it.
      reproduced: the figure, table or claim of the paper that is shown again, and by what; "" for
        none.
    """

    key: str
    covers: str
    where: tuple[str, ...]
    tests: tuple[str, ...]
    reproduced: str = ""
