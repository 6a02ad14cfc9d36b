"""What reports are built of, in both forms: tables under headings, tiles with the first figures, and the page around.

In: `Section`s and charts. Out: Markdown with GitHub's tables, and HTML that needs nothing else: styles inside,
charts as data, no script. All text is escaped: rows hold what strangers wrote.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape as escape_html
from pathlib import Path

from ragray.evaluation.significance import Interval

Item = str | Interval
Rows = tuple[tuple[Item, ...], ...]
Tile = tuple[str, str, str]  # name, value, what to hold it against

_LONG_CHARS = 40  # from here on a cell may break anywhere, so that no text widens the page
_STYLE = """
:root { --ink: #24292f; --soft: #57606a; --line: #d8dee4; --wash: #f6f8fa; --accent: #1f6fb8; --good: #12877a;
  --bad: #b42318; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.5; font-size: 15px;
  font-family: system-ui, "Segoe UI", Roboto, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.8rem; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { max-width: 52rem; margin: .4rem 0 .9rem; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .75rem; margin: 1.5rem 0; }
.tile { border: 1px solid var(--line); border-radius: 10px; padding: .85rem 1rem; background: var(--wash); }
.tile b { display: block; font-size: 1.75rem; line-height: 1.25; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .86rem; }
.tile .name { color: var(--ink); font-weight: 600; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th { text-align: left; vertical-align: bottom; color: var(--soft); font-weight: 600; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); }
td { vertical-align: top; font-variant-numeric: tabular-nums; }
td:first-child { font-weight: 500; }
td.long { min-width: 14rem; overflow-wrap: anywhere; }
td small { display: block; color: var(--soft); white-space: nowrap; }
tbody tr:hover { background: var(--wash); }
img { display: block; width: 100%; max-width: 58rem; height: auto; margin: .5rem 0 1rem; }
details { border: 1px solid var(--line); border-radius: 10px; margin: .6rem 0; padding: .7rem 1rem; }
summary { cursor: pointer; font-weight: 600; }
summary span { color: var(--soft); font-weight: 400; font-size: .85rem; margin-left: .5rem; }
dl { display: grid; grid-template-columns: 7rem 1fr; gap: .4rem .8rem; margin: .8rem 0 0; font-size: .92rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
.mark { display: inline-block; border-radius: 6px; padding: 0 .4rem; font-size: .78rem; color: #fff;
  margin-right: .35rem; }
.right { background: var(--good); }
.cited { background: var(--accent); }
.passage { color: var(--soft); }
.passage strong { color: var(--ink); }
pre { overflow-x: auto; background: var(--wash); padding: .8rem; border-radius: 8px; font-size: .8rem; }
@media print { details { break-inside: avoid; } }
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A table under a heading, with a sentence on how to read it, and the chart that goes with it."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: Rows  # none: no table
    chart: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A report of tiles and sections alone."""

    title: str
    introduction: str
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    charts: Mapping[str, str]  # name -> SVG
    described: Mapping[str, str]  # name -> what the chart shows


def write_report(folder: Path, report: Report) -> None:
    """Write `report.md` with `charts/*.svg`, and `report.html`, which needs neither."""
    (folder / "charts").mkdir(parents=True, exist_ok=True)
    for name, svg in report.charts.items():
        (folder / "charts" / f"{name}.svg").write_text(svg, encoding="utf-8")
    (folder / "report.md").write_text(render_markdown(report), encoding="utf-8")
    (folder / "report.html").write_text(render_html(report), encoding="utf-8")


def render_markdown(report: Report) -> str:
    """The report in Markdown."""
    parts = [f"# {escape_markdown(report.title)}", report.introduction, markdown_tiles(report.tiles)]
    return "\n\n".join([*parts, *map(markdown_section, report.sections)]) + "\n"


def render_html(report: Report) -> str:
    """The report as one HTML file."""
    sections = (html_section(section, report.charts, report.described) for section in report.sections)
    introduction = f"<p>{escape_html(report.introduction)}</p>"
    return html_page(report.title, [introduction, html_tiles(report.tiles), *sections])


def number(interval: Interval) -> str:
    """The mean with three decimals, or "-"."""
    return "-" if interval.mean is None else f"{interval.mean:.3f}"


def bounds(interval: Interval) -> str:
    """The interval with two decimals, or nothing."""
    return "" if interval.low is None or interval.high is None else f"[{interval.low:.2f}, {interval.high:.2f}]"


def escape_markdown(text: str) -> str:
    """Text on one line that Markdown shows as it is: no links, images, HTML, table cells or headings."""
    escaped = re.sub(r"([\\`*_\[\]<>|~#!&@])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?i)(?<=www)\.|:(?=//)", r"\\\g<0>", escaped)  # GitHub makes links of bare addresses


def html_page(title: str, body: Iterable[str], style: str = "") -> str:
    """A page of parts that are HTML already. A content security policy keeps it from loading or running anything.

    Args:
        title: shown, and the window's.
        body: its parts.
        style: more CSS, after the one that all pages share.
    """
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
            f"<title>{escape_html(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n<main>",
            f"<h1>{escape_html(title)}</h1>",
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )


def html_tiles(tiles: Iterable[Tile]) -> str:
    """The figures that a reader wants first."""
    shown = (
        f'<div class="tile"><span class="name">{escape_html(name)}</span><b>{escape_html(value)}</b>'
        f"<span>{escape_html(note)}</span></div>"
        for name, value, note in tiles
    )
    return f'<div class="tiles">{"".join(shown)}</div>'


def html_section(section: Section, charts: Mapping[str, str], described: Mapping[str, str]) -> str:
    """A section; `charts` holds SVG text by name, `described` what each shows, for people who cannot see it."""
    parts = [f"<h2>{escape_html(section.title)}</h2>\n<p>{escape_html(section.note)}</p>"]
    if section.chart:
        data = base64.b64encode(charts[section.chart].encode()).decode()
        alt = escape_html(described[section.chart])
        parts.append(f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">')
    if section.rows:
        head = "".join(f"<th>{escape_html(name)}</th>" for name in section.header)
        rows = "\n".join(f"<tr>{''.join(_html_item(item) for item in row)}</tr>" for row in section.rows)
        table = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>"
        parts.append(f'<div class="table"><table>\n{table}</table></div>')
    return "\n".join(parts)


def markdown_tiles(tiles: Iterable[Tile]) -> str:
    """The figures that a reader wants first."""
    return "\n".join(
        f"- {escape_markdown(name)}: **{escape_markdown(value)}** ({escape_markdown(note)})"
        for name, value, note in tiles
    )


def markdown_section(section: Section) -> str:
    """A section that links its chart below `charts/`."""
    parts = [f"## {section.title}"]
    if section.chart:
        parts.append(f"![{section.title}](charts/{section.chart}.svg)")
    if section.note:
        parts.append(section.note)
    if section.rows:
        lines = ["| " + " | ".join(section.header) + " |", "|" + " --- |" * len(section.header)]
        lines += ["| " + " | ".join(_markdown_item(item) for item in row) + " |" for row in section.rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _html_item(item: Item) -> str:
    if isinstance(item, Interval):
        return f"<td>{number(item)}<small>{bounds(item)}</small></td>"
    long = ' class="long"' if len(item) > _LONG_CHARS else ""
    return f"<td{long}>{escape_html(item)}</td>"


def _markdown_item(item: Item) -> str:
    return f"{number(item)} {bounds(item)}".strip() if isinstance(item, Interval) else escape_markdown(item)
