"""What makes a site of docs/: mkdocs calls the functions at the end by their names (mkdocs.yml).

The README is the first page, and the reference is one page for each family of ops and for each
package above them, written from the docstrings. `make site` builds it into build/site.
"""

import ast
import logging
import pathlib
import re
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# A link, whose text may hold brackets of its own; no picture.
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
# Page of the reference -> the package whose public names it shows.
PACKAGES = {
    "models": "scanmax.models",
    "mixers": "scanmax.models.mixers",
    "data": "scanmax.data",
    "losses": "scanmax.train.losses",
    "testing": "scanmax.testing",
}
# What is used by its own address.
TRAINER = (
    "scanmax.load",
    "scanmax.train.loop.train",
    "scanmax.train.seeds.train_seeds",
    "scanmax.train.inference.Trained",
    "scanmax.train.predictor.Prediction",
    "scanmax.train.export.export",
    "scanmax.train.config.Config",
    "scanmax.train.objectives.base.Objective",
    "scanmax.train.terms.base.Term",
    "scanmax.train.loggers.base.Logger",
)


def imported(package: str) -> dict[str, str]:
    """Public name -> where it is defined, of what a package's __init__ takes from below itself."""
    file = ROOT.joinpath(*package.split("."), "__init__.py")
    found = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def reference() -> dict[str, tuple[str, list[str]]]:
    """Page -> (its heading, the addresses of what it describes)."""
    families: dict[str, list[str]] = {}
    for address in imported("scanmax.ops").values():
        families.setdefault(address.split(".")[2], []).append(address)
    pages = {
        f"reference/ops/{family}.md": (f"scanmax.ops: {family}", sorted(addresses))
        for family, addresses in sorted(families.items())
    }
    for name, package in PACKAGES.items():
        addresses = sorted(
            address
            for shown, address in imported(package).items()
            if not shown.startswith("_") and not shown.isupper()
        )
        pages[f"reference/{name}.md"] = (package, addresses)
    pages["reference/train.md"] = ("scanmax.train", list(TRAINER))
    return pages


def reference_page(heading: str, addresses: list[str]) -> str:
    """A page of the reference, for mkdocstrings to fill."""
    return f"# {heading}\n\n" + "\n\n".join(f"::: {address}" for address in addresses) + "\n"


def first_page() -> str:
    """The README as a page of the site."""
    text = (ROOT / "README.md").read_text()
    return re.sub(r"\]\(docs/", "](", text)


def inside(markdown: str) -> str:
    """A page whose links to files outside of docs/ are their texts: the site does not hold them.

    >>> inside("[a test](../tests/test_docs.py), [a page](data.md#sources), [a part](#here)")
    'a test, [a page](data.md#sources), [a part](#here)'
    """

    def replace(match: re.Match) -> str:
        path = match[2].split("#")[0]
        is_here = not path or "://" in path or not path.startswith("..")
        return match[0] if is_here and ("://" in path or (DOCS / path).exists()) else match[1]

    return LINK.sub(replace, markdown)


def names_something(record: logging.LogRecord) -> bool:
    """Whether a warning is none of a formula's brackets, D[y, y'][x, x'], taken for a reference."""
    found = re.search(r"cross-reference target '(.*)'$", record.getMessage(), re.DOTALL)
    return found is None or re.fullmatch(r"[\w.]+", found[1]) is not None


def on_config(config: Any) -> Any:
    """Adds the reference to the navigation, and lets warnings of names alone fail the build."""
    for handler in logging.getLogger("mkdocs").handlers:
        handler.addFilter(names_something)
    ops = [{page.split("/")[-1][:-3]: page} for page in reference() if "/ops/" in page]
    rest = [{page.split("/")[-1][:-3]: page} for page in reference() if "/ops/" not in page]
    config.nav.append({"Reference": [{"ops": ops}, *rest]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the first page and those of the reference."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "index.md", content=first_page()))
    for page, (heading, addresses) in reference().items():
        content = reference_page(heading, addresses)
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Takes out the links that lead outside."""
    return inside(markdown)
