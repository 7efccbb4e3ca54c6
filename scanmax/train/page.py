"""What pages of reports are made of: style, tables, figures as people write them."""

import base64
import datetime
import html
from collections.abc import Sequence

CSS = """
:root { --ink: #1f2933; --faint: #616e7c; --rule: #e4e7eb; --blue: #0b69a3; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink);
  background: #fff; max-width: 1040px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 48px 0 12px; }
p, figcaption { color: var(--faint); margin: 4px 0 0; max-width: 70ch; }
figure { margin: 0; }
figcaption { font-size: 14px; }
img { max-width: 100%; height: auto; display: block; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 0 24px;
  margin: 28px 0 0; border-top: 2px solid var(--ink); }
.tile { padding: 12px 0; }
.tile b { display: block; font-size: 26px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile:first-child b { color: var(--blue); }
.tile span { color: var(--faint); font-size: 14px; }
pre { background: #f5f7fa; padding: 16px 20px; border-radius: 6px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; }
pre .prompt { color: var(--blue); font-weight: 600; }
table { border-collapse: collapse; font-size: 13px; margin-top: 8px; }
td, th { padding: 3px 32px 3px 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  text-align: left; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
th { color: var(--faint); font-weight: 500; white-space: nowrap; }
.fields td { font-family: ui-monospace, Menlo, Consolas, monospace; }
.fields td:first-child { color: var(--faint); white-space: nowrap; }
a { color: var(--blue); }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--faint); }
@media print { body { padding: 0; } details { display: none; } }
"""


def page(heading: str, parts: Sequence[str]) -> str:
    """A whole page that needs nothing beside it."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(heading)}</title><style>{CSS}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def fields_of(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and values."""
    body = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f'<table class="fields">{body}</table>'


def table_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts below their headings."""

    def row(entries: Sequence[str], kind: str) -> str:
        cells = "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in entries)
        return f"<tr>{cells}</tr>"

    return f"<table>{row(header, 'th')}{''.join(row(entries, 'td') for entries in rows)}</table>"


def folded(summary: str, content: str) -> str:
    """What is shown when its line is clicked."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def picture(name: str, content: bytes, caption: str = "") -> str:
    """A PNG within the page, as wide as it is at 100 pixels per inch of a figure."""
    width = round(int.from_bytes(content[16:20], "big") * 100 / 160)
    return (
        f'<figure><img alt="{html.escape(name)}" width="{width}" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(134)
    '2 min 14 s'
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def moment(seconds: float) -> str:
    """A time as a date.

    >>> moment(0)
    '1970-01-01 00:00 UTC'
    """
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M} UTC"


def count(number: float) -> str:
    """A large number at the length at which it is read.

    >>> count(5717416), count(12.0), count(2.5e9)
    ('5.72 M', '12', '2.5 G')
    """
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            size = 1e3 if letter == "k" else size
            return f"{number / size:.3g} {letter}"
    return f"{number:,.4g}"
