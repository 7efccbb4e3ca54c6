"""The kept figures as a page: benchmarks/tables/DEVICE/CASE.csv -> docs/benchmark_tables.md."""

import csv
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

FOLDER = pathlib.Path(__file__).parent / "tables"
PAGE = FOLDER.parent.parent / "docs" / "benchmark_tables.md"
HEAD = """# Benchmark tables

Figures of single operators, each beside its peers, kept by `python -m benchmarks CASE --keep` and
written here by it. [benchmarks.md](benchmarks.md) says how they are measured, and what is behind
the large ones. `speedup` is the peer's time over ours, above 1 we are faster; `memory` is the peak
beyond the inputs.
"""


def kept_path(case: str, device: str) -> pathlib.Path:
    """Where the figures of a case on a device are kept."""
    return FOLDER / re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") / f"{case}.csv"


def markdown(records: Sequence[Mapping[str, str]]) -> list[str]:
    """The table of one case: a line per contender, the row's label on the first."""
    lines = [
        "| row | contender | median ms | ± | speedup | memory MiB |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for label, group in itertools.groupby(records, key=lambda record: record["row"]):
        for i, record in enumerate(group):
            figures = [
                f"{float(record[name]):.{digits}f}" if record[name] else ""
                for name, digits in (
                    ("median_ms", 2),
                    ("spread_ms", 2),
                    ("speedup", 2),
                    ("memory_mib", 1),
                )
            ]
            name = record["contender"]
            lines.append("| " + " | ".join([label if i == 0 else "", name, *figures]) + " |")
    return lines


def page(files: Iterable[pathlib.Path]) -> str:
    """The page's text: a section per device and case."""
    lines = [HEAD]
    for _, group in itertools.groupby(sorted(files), key=lambda path: path.parent):
        for i, path in enumerate(group):
            with path.open(newline="") as file:
                records = list(csv.DictReader(file))
            if i == 0:
                lines += [f"## {records[0]['device']}", ""]
                lines += [f"{records[0]['threads']} threads; {records[0]['versions']}.", ""]
            first = records[0]
            lines += [f"### {path.stem}", "", *markdown(records), ""]
            lines += [f"Commit {first['commit']}, {first['date']}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def write_page() -> None:
    """Writes docs/benchmark_tables.md from what is kept."""
    PAGE.write_text(page(FOLDER.glob("*/*.csv")))
