"""Claims of the papers, run again: `python -m benchmarks claims [NAME ...]` writes docs/claims.md.

A claim is a function of the module of its family, here or in the folder of the family. Its
docstring's first line is what the paper says; it returns findings, each the paper's figure beside
the one measured here:

    @claim("uniform-weights", paper="sigmoid-attention")
    def uniform_weights(quick):
        '''Equal logits give equal weights.'''
        weights = ops.softmax(jnp.zeros(4))
        return [Finding("weight of each of 4 keys", "1/4", f"{weights[0]:.3f}", weights[0] == 0.25)]

What does not train (`by_hand=False`) takes a few seconds at most and is a test as well
(tests/test_claims.py); what trains is run by hand, and its figures are kept in
benchmarks/claims/results.json, from which the page is made.
"""

import dataclasses
import importlib
import json
import pathlib
import pkgutil
import time
from collections.abc import Callable, Sequence

FOLDER = pathlib.Path(__file__).parent
RESULTS = FOLDER / "results.json"
PAGE = FOLDER.parent.parent / "docs" / "claims.md"
FIGURES = PAGE.parent / "figures"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One figure of a claim.

    Attributes:
      what: the quantity, in words.
      paper: what the paper says of it.
      here: what was measured.
      holds: whether the claim holds by it.
    """

    what: str
    paper: str
    here: str
    holds: bool


@dataclasses.dataclass(frozen=True)
class Claim:
    """A registered claim; `run(quick)` gives its findings.

    Attributes:
      by_hand: it trains, measures time or does not hold, and so is no test.
      figure: name of the picture in docs/figures that it writes, "" for none.
    """

    name: str
    paper: str
    by_hand: bool
    figure: str
    run: Callable[[bool], Sequence[Finding]]

    @property
    def statement(self) -> str:
        return (self.run.__doc__ or "").strip().splitlines()[0]


CLAIMS: dict[str, Claim] = {}


def claim(name: str, *, paper: str, by_hand: bool = False, figure: str = "") -> Callable:
    """Registers `f(quick) -> [Finding, ...]` as the claim `name` of a paper of the roster."""

    def register(run):
        CLAIMS[name] = Claim(name, paper, by_hand, figure, run)
        return run

    return register


def save_figure(figure, name: str) -> None:
    """Writes a matplotlib figure to docs/figures/NAME.png and closes it."""
    import matplotlib.pyplot as plt

    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png", dpi=100, bbox_inches="tight")
    plt.close(figure)


def load_claims() -> dict[str, Claim]:
    """All claims, from every module of this folder and those in it."""
    for module in pkgutil.walk_packages([str(FOLDER)], f"{__name__}."):
        importlib.import_module(module.name)
    return CLAIMS


def run_claims(names: Sequence[str], *, quick: bool) -> bool:
    """Runs claims, prints their findings and, unless quick, writes them down; True if all hold."""
    known, right = load_claims(), True
    for name in names or sorted(known):
        entry, start = known[name], time.perf_counter()
        findings = list(entry.run(quick))
        seconds = time.perf_counter() - start
        print(f"{name} ({entry.paper}, {seconds:.0f} s): {entry.statement}")
        for finding in findings:
            verdict = "holds" if finding.holds else "DOES NOT HOLD"
            print(
                f"  {finding.what}: {finding.here} (paper: {finding.paper}) {verdict}", flush=True
            )
            right &= finding.holds
        if not quick:
            # Read again each time: another process may have measured another claim meanwhile.
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            results[name] = {
                "seconds": round(seconds),
                "findings": [dataclasses.asdict(finding) for finding in findings],
            }
            results = {name: entry for name, entry in results.items() if name in known}
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
            write_page()
    return right


def write_page() -> None:
    """Writes docs/claims.md from the kept results."""
    PAGE.write_text(page(load_claims(), json.loads(RESULTS.read_text())))


def page(claims, results) -> str:
    """The page's text: a section per paper, a table per claim."""
    from scanmax.papers import TITLES

    lines = [
        "# Claims",
        "",
        "What papers say, measured again with this code on two CPU cores, and written by",
        "`python -m benchmarks claims`. Those without a time in brackets are tests too. A claim",
        "that did not hold here stands with its figure like the others. Of several seeds the means",
        "decide: where their ranges overlap, the sign of a difference says little.",
    ]
    papers = sorted({claims[name].paper for name in results}, key=lambda key: TITLES.get(key, key))
    for paper in papers:
        lines += ["", f"## {TITLES.get(paper, paper)} (`{paper}`)"]
        for name in sorted(name for name in results if claims[name].paper == paper):
            entry = claims[name]
            took = f" ({results[name]['seconds']} s)" if entry.by_hand else ""
            lines += ["", f"**{name}**{took}: {entry.statement}", ""]
            lines += ["| what | paper | here | |", "| --- | --- | --- | --- |"]
            for finding in results[name]["findings"]:
                verdict = "holds" if finding["holds"] else "**does not hold**"
                cells = (finding["what"], finding["paper"], finding["here"], verdict)
                lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
            if entry.figure:
                lines += ["", f"![{name}](figures/{entry.figure}.png)"]
    return "\n".join(lines) + "\n"
