"""The report as one HTML file that needs nothing else: styles inside, charts as data, no script.

In: a `Document` and the charts' SVG. Out: HTML. All text is escaped, and a content security policy
keeps the page from loading or running anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from ragray.evaluation.charts import CHARTS
from ragray.evaluation.report import (
    Document,
    Example,
    ShownPassage,
    configurations,
    examples,
    introduction,
    lead,
    plain,
    sections,
)
from ragray.evaluation.sections import html_page, html_section, html_tiles
from ragray.evaluation.summary import CELLS, MAIN_CELL


def render_html(document: Document, charts: Mapping[str, str]) -> str:
    """The whole page; `charts` holds SVG text by the names in `CHARTS`."""
    body = [
        f"<p>{escape(introduction(document))}</p>",
        html_tiles(lead(document)),
        *(html_section(section, charts, CHARTS) for section in sections(document)),
        "<h2>Worst answers</h2>",
        f"<p>Of the cell &ldquo;{escape(CELLS[MAIN_CELL])}&rdquo;.</p>",
        *(_example(example) for example in examples(document)),
        "<h2>Settings</h2>",
        *(
            f"<details><summary>{escape(stage)}</summary><pre>{escape(text)}</pre></details>"
            for stage, text in configurations(document).items()
        ),
    ]
    return html_page(f"Evaluation of {document.name}", body)


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
