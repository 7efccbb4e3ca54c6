"""The ledger: which papers are in the code, where, how each is verified, what is reproduced.

`python -m scanmax.papers` prints docs/papers.md; a test checks that every name and test exists. A
paper is entered, in the module of its family, when what its row claims works.
"""

from scanmax.papers import (
    attention,
    channels,
    context,
    conv,
    distillation,
    linear,
    local,
    losses,
    mixing,
    mlp,
    norm,
    scan,
    softmax,
    spectral,
    text,
    tokens,
    vision,
)
from scanmax.papers.paper import Paper as Paper
from scanmax.papers.titles import TITLES as TITLES
from scanmax.public import shown

LEDGER = (
    attention.LEDGER
    + channels.LEDGER
    + context.LEDGER
    + conv.LEDGER
    + distillation.LEDGER
    + linear.LEDGER
    + local.LEDGER
    + losses.LEDGER
    + mixing.LEDGER
    + mlp.LEDGER
    + norm.LEDGER
    + scan.LEDGER
    + softmax.LEDGER
    + spectral.LEDGER
    + text.LEDGER
    + tokens.LEDGER
    + vision.LEDGER
)


def table() -> str:
    """docs/papers.md: the ledger as markdown."""
    lines = [
        "# Papers",
        "",
        "Generated from `scanmax/papers` by `make docs`; what a row names is checked by a test.",
        "",
        "| paper | what is covered | where | verified by | reproduced |",
        "| --- | --- | --- | --- | --- |",
    ]
    for paper in sorted(LEDGER, key=lambda paper: paper.key):
        where = ", ".join(f"`{name}`" for name in paper.where)
        tests = ", ".join(f"`{name}`" for name in paper.tests)
        cells = (
            f"{TITLES[paper.key]} (`{paper.key}`)",
            paper.covers,
            where,
            tests,
            paper.reproduced or "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


__all__ = shown(globals())


def __dir__() -> list[str]:
    return __all__
