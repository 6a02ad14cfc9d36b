"""The report as one HTML file that needs nothing else: styles inside, charts as data, no script.

In: a `Document` and the charts' SVG. Out: HTML. All text is escaped, and a content security policy
keeps the page from loading or running anything.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from ragray.evaluation.charts import CHARTS
from ragray.evaluation.report import (
    Document,
    Example,
    Item,
    Section,
    ShownPassage,
    bounds,
    configurations,
    examples,
    introduction,
    lead,
    number,
    plain,
    sections,
)
from ragray.evaluation.significance import Interval
from ragray.evaluation.summary import CELLS, MAIN_CELL

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
td small { display: block; color: var(--soft); white-space: nowrap; }
tbody tr:hover { background: var(--wash); }
img { width: 100%; max-width: 58rem; height: auto; margin: .5rem 0 1rem; }
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


def render_html(document: Document, charts: Mapping[str, str]) -> str:
    """The whole page; `charts` holds SVG text by the names in `CHARTS`."""
    name = escape(document.name)
    body = [
        f"<h1>Evaluation of {name}</h1>",
        f"<p>{escape(introduction(document))}</p>",
        _tiles(document),
        *(_section(section, charts) for section in sections(document)),
        "<h2>Worst answers</h2>",
        f"<p>Of the cell &ldquo;{escape(CELLS[MAIN_CELL])}&rdquo;.</p>",
        *(_example(example) for example in examples(document)),
        "<h2>Settings</h2>",
        *(
            f"<details><summary>{escape(stage)}</summary><pre>{escape(text)}</pre></details>"
            for stage, text in configurations(document).items()
        ),
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
            f"<title>Evaluation of {name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>",
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _tiles(document: Document) -> str:
    tiles = (
        f'<div class="tile"><span class="name">{escape(name)}</span><b>{number(value)}</b>'
        f"<span>{bounds(value)} {escape(note)}</span></div>"
        for name, value, note in lead(document)
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _section(section: Section, charts: Mapping[str, str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in section.header)
    rows = "\n".join(f"<tr>{''.join(_item(item) for item in row)}</tr>" for row in section.rows)
    return (
        f"<h2>{escape(section.title)}</h2>\n<p>{escape(section.note)}</p>\n{_chart(section.chart, charts)}"
        f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    )


def _chart(name: str, charts: Mapping[str, str]) -> str:
    if not name:
        return ""
    data = base64.b64encode(charts[name].encode()).decode()
    return f'<img alt="{escape(CHARTS[name])}" src="data:image/svg+xml;base64,{data}">\n'


def _item(item: Item) -> str:
    if isinstance(item, Interval):
        return f"<td>{number(item)}<small>{bounds(item)}</small></td>"
    return f"<td>{escape(item)}</td>"


def _example(example: Example) -> str:
    prediction = example.prediction
    facts = (
        f"{escape(prediction.query_id)}: {escape(example.reason)}; F1 {plain(prediction.scores.f1)}, "
        f"probability {plain(prediction.probability)}"
    )
    references = "".join(f"<dt>Reference</dt><dd>{escape(text)}</dd>" for text in prediction.references)
    passages = "".join(_passage(shown) for shown in example.passages)
    return (
        f"<details><summary>{escape(prediction.question)}<span>{facts}</span></summary>"
        f"<dl><dt>Answer</dt><dd>{escape(prediction.text)}</dd>{references}{passages}</dl></details>"
    )


def _passage(shown: ShownPassage) -> str:
    marks = "".join(
        f'<span class="mark {name}">{name}</span>'
        for name, on in (("right", shown.right), ("cited", shown.cited))
        if on
    )
    passage = shown.passage
    return (
        f'<dt>Passage {shown.number}</dt><dd class="passage">{marks}<strong>{escape(passage.title)}</strong> '
        f"({escape(passage.doc_id)})\n{escape(passage.text)}</dd>"
    )
