"""The report in Markdown, with GitHub's tables.

In: a `Document`. Out: text that links the charts below `charts/`. Text of questions and passages is
escaped: it shows as it is, and cannot become a link, an image or a heading.
"""

from __future__ import annotations

import re

from ragray.evaluation.report import (
    Document,
    Example,
    Item,
    Section,
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


def render_markdown(document: Document) -> str:
    """The report in Markdown (GitHub's tables)."""
    parts = [f"# Evaluation of {escape(document.name)}", introduction(document)]
    parts.append("\n".join(f"- {name}: **{number(i)}** {bounds(i)} ({note})" for name, i, note in lead(document)))
    for section in sections(document):
        parts.append(f"## {section.title}")
        if section.chart:
            parts.append(f"![{section.title}](charts/{section.chart}.svg)")
        parts += [section.note, _table(section)]
    parts.append(f'## Worst answers\n\nOf the cell "{CELLS[MAIN_CELL]}".')
    parts += [_example(example) for example in examples(document)]
    parts.append("## Settings")
    for stage, text in configurations(document).items():
        parts.append(f"`{stage}`:\n\n" + "\n".join(f"    {line}" for line in text.splitlines()))
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text on one line that Markdown shows as it is: no links, images, HTML, table cells or headings."""
    return re.sub(r"([\\`*_\[\]<>|~#!])", r"\\\1", " ".join(text.split()))


def _table(section: Section) -> str:
    lines = ["| " + " | ".join(section.header) + " |", "|" + " --- |" * len(section.header)]
    lines += ["| " + " | ".join(_item(item) for item in row) + " |" for row in section.rows]
    return "\n".join(lines)


def _item(item: Item) -> str:
    return f"{number(item)} {bounds(item)}".strip() if isinstance(item, Interval) else escape(item)


def _example(example: Example) -> str:
    prediction = example.prediction
    lines = [
        f"### {escape(prediction.question)}",
        "",
        f"- {escape(prediction.query_id)}: {example.reason}; F1 {plain(prediction.scores.f1)}, "
        f"probability {plain(prediction.probability)}",
        f"- answer: {escape(prediction.text)}",
        *(f"- reference: {escape(text)}" for text in prediction.references),
    ]
    for shown in example.passages:
        marks = ", ".join(name for name, on in (("right", shown.right), ("cited", shown.cited)) if on)
        text = f"{escape(shown.passage.title)}: {escape(shown.passage.text)}"
        lines.append(f"- passage {shown.number} ({shown.passage.doc_id}{', ' + marks if marks else ''}): {text}")
    return "\n".join(lines)
