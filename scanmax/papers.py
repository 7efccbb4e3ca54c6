"""The ledger: which papers are in the code, where, how each is verified, what is reproduced.

`python -m scanmax.papers` prints docs/papers.md; a test checks that every name and test exists. A
paper is entered when what its row claims works.
"""

import dataclasses

# Every paper that a docstring or a table of models cites, entered in the ledger or not.
TITLES = {
    "convnext": "A ConvNet for the 2020s",
    "deit": "Training data-efficient image transformers & distillation through attention",
    "evonorm": "Evolving Normalization-Activation Layers",
    "hidden-mamba-attention": "The Hidden Attention of Mamba Models",
    "illama": "Adapting LLaMA Decoder to Vision Transformer",
    "inception-v3": "Rethinking the Inception Architecture for Computer Vision",
    "mamba2-ssd": "Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
    "Structured State Space Duality",
    "sigmoid-attention": "Theory, Analysis, and Best Practices for Sigmoid Self-Attention",
    "stablemax-perpgrad": "Grokking at the Edge of Numerical Stability",
    "two-pass-softmax": "The Two-Pass Softmax Algorithm",
    "vssd": "VSSD: Vision Mamba with Non-Causal State Space Duality",
}


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


LEDGER: tuple[Paper, ...] = ()


def table() -> str:
    """docs/papers.md: the ledger as markdown."""
    lines = [
        "# Papers",
        "",
        "Generated from `scanmax/papers.py` by `make docs`; what a row names is checked by a test.",
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


if __name__ == "__main__":
    print(table())
