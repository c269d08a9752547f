"""The files of a comparison: compare.json, compare.csv, compare.md and one self-contained compare.html."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from canet_mobile.compare.figures import figures
from canet_mobile.compare.formats import csv_text, markdown
from canet_mobile.compare.tables import Table, introduction, tables
from canet_mobile.files import write_json, write_text
from canet_mobile.schema import validate

STEM = "compare"
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1c2430; --muted: #566173; --grid: #e3e7ed;
  --canet: #1f5fb4; --sasrec: #b4491a; --other: #6a7280; --pale: #9cc0ee; --stripe: #f5f7fa; }
@media (prefers-color-scheme: dark) { :root { --page: #14181f; --ink: #e7ebf1; --muted: #a5afbd;
  --grid: #2d3541; --canet: #7fb4ff; --sasrec: #f2a16c; --other: #a2abb8; --pale: #3f6a9f;
  --stripe: #1b212b; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 960px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.note, figcaption { color: var(--muted); font-size: .9rem; }
figure { margin: 1rem 0; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; } tbody tr:nth-child(even) { background: var(--stripe); }
thead th { border-bottom: 2px solid var(--muted); vertical-align: bottom; } tbody th { font-weight: normal; }
svg { font: 11px system-ui, sans-serif; display: block; }
.label { fill: var(--ink); } .tick { fill: var(--muted); }
.grid { stroke: var(--grid); } .axis, .zero { stroke: var(--muted); }
.floor { stroke: var(--muted); stroke-dasharray: 5 4; }
.leader { stroke: var(--muted); stroke-width: .7; }
.dot { stroke: var(--page); stroke-width: 1.5; } .whisker { stroke-width: 2; }
.dot.canet, .bar.all { fill: var(--canet); } .whisker.canet { stroke: var(--canet); }
.dot.sasrec { fill: var(--sasrec); } .whisker.sasrec { stroke: var(--sasrec); }
.dot.other { fill: var(--other); } .whisker.other { stroke: var(--other); } .bar.tail { fill: var(--pale); }
"""


def write_report(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Check the document against its schema and write all four files.

    Raises:
        CanetError: the document is not of its schema, or the folder cannot be written.
    """
    paths = {kind: folder / f"{STEM}.{kind}" for kind in ("json", "csv", "md", "html")}
    validate(document, "comparison", where=paths["json"])
    write_json(paths["json"], document)
    for kind, make in (("csv", csv_text), ("md", markdown), ("html", html)):
        write_text(paths[kind], make(document))
    return list(paths.values())


def html(document: Mapping[str, Any]) -> str:
    """The report as one page without scripts, fonts or images from elsewhere; well-formed XML as well."""
    title = f"Methods compared on {document['dataset']['name']}"
    main, *others = tables(document)
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(introduction(document))}</p>"]
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in document["verdict"])
    if sentences:
        parts.append(f"<ul>{sentences}</ul>")
    parts.append(_table(main))
    for heading, caption, svg in figures(document):
        parts.append(
            f"<h2>{escape(heading)}</h2><figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        )
    parts += [_table(table) for table in others]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n'
        '<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _unbroken(cell: str) -> str:
    """A figure and its error stay on one line."""
    return cell.replace(" ± ", "\u00a0±\u00a0").replace(" (", "\u00a0(").replace(" to ", "\u00a0to\u00a0")


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = ""
    for first, *rest in table.rows:
        cells = "".join(f"<td>{escape(_unbroken(cell))}</td>" for cell in rest)
        rows += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>\n'
    return (
        f'<h2>{escape(table.title)}</h2><p class="note">{escape(table.note)}</p>\n<div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )
