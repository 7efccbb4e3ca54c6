"""The site, without building it: pages have their place, links their end, names their home."""

import importlib
import logging
import pathlib
import re
import types

import pytest
import yaml

import scanmax.train.config

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")


@pytest.fixture(scope="module")
def site() -> types.ModuleType:
    """docs/make_site.py, which mkdocs loads by its path too."""
    module = types.ModuleType("make_site")
    module.__file__ = str(DOCS / "make_site.py")
    exec((DOCS / "make_site.py").read_text(), module.__dict__)
    return module


def anchors(path: pathlib.Path) -> set[str]:
    """What a link may name of a page, as GitHub and mkdocs make it of headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    kept = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"\s+", "-", words) for words in kept}


def leaves(nav) -> list[str]:
    """The pages that a navigation leads to."""
    if isinstance(nav, str):
        return [nav]
    values = nav.values() if isinstance(nav, dict) else nav
    return [page for value in values for page in leaves(value)]


def test_the_navigation_leads_to_every_page_once():
    nav = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == sorted(["index.md", *(path.name for path in DOCS.glob("*.md"))])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_link_has_an_end(path):
    for target, anchor in LINK.findall(path.read_text()):
        if "://" in target:
            continue
        page = path.parent / target if target else path
        assert page.exists(), f"{path.name} links to {target}"
        if anchor and page.suffix == ".md":
            assert anchor in anchors(page), f"{path.name} links to {target}#{anchor}"


def test_links_that_leave_the_site_are_their_texts(site):
    text = (
        "[a `b[0]`](../tests/x.py) ![p](figures/mixers.png) [q](data.md#sources) [r](https://x.y)"
    )
    expected = "a `b[0]` ![p](figures/mixers.png) [q](data.md#sources) [r](https://x.y)"
    assert site.inside(text) == expected
    first = site.inside(site.first_page())
    ends = [target for target, _ in LINK.findall(first) if target and "://" not in target]
    assert "fine_tuning.md" in ends
    assert [end for end in ends if not (DOCS / end).exists()] == []


def test_brackets_of_a_formula_are_no_missing_name(site):
    def warns(target):
        told = f"a.md: Could not find cross-reference target '{target}'"
        return site.names_something(logging.makeLogRecord({"msg": told}))

    assert warns("scanmax.ops.nothing")
    assert not warns("y, y'")
    assert not warns("0.0, 1.155")
    assert site.names_something(logging.makeLogRecord({"msg": "a page is missing"}))


def test_the_reference_describes_what_there_is(site):
    pages = site.reference()
    described = {address.rpartition(".")[2] for _, found in pages.values() for address in found}
    assert {name for name in scanmax.ops.__all__ if not name.isupper()} <= described
    for _, addresses in pages.values():
        assert addresses
        for address in addresses:
            module, _, name = address.rpartition(".")
            assert getattr(importlib.import_module(module), name).__doc__, address
