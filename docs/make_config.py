"""docs/config.md: every field of a run's config, from the docstrings.

python docs/make_config.py > docs/config.md
"""

from scanmax.fields import field_rows
from scanmax.train.config import Config

HEAD = """# Every field of a config

`python -m scanmax.train --config=NAME --help_config` prints the same for a config of yours, with
its own values. A field is set in the file, or typed: `--config.optim.lr=5e-4`. Written by
`make docs` from the docstrings of `scanmax.train.config` and `scanmax.data.config`.
"""


def page() -> str:
    """The page: a table for each section of the config."""
    sections: dict[str, list[str]] = {}
    for row in field_rows(Config()):
        section, _, name = row.path.rpartition(".")
        told = row.told.replace("|", r"\|")
        value = row.value or '""'
        sections.setdefault(section, []).append(f"| `{name}` | `{value}` | {told} |")
    tables = (
        f"\n## {section}\n\n| field | default | |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
        for section, rows in sections.items()
    )
    return HEAD + "".join(tables)


if __name__ == "__main__":
    print(page(), end="")
