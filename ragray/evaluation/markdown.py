"""The report in Markdown, with GitHub's tables.

In: a `Document`. Out: text that links the charts below `charts/`. Text of questions and passages is
escaped: it shows as it is, and cannot become a link, an image or a heading.
"""

from __future__ import annotations

from ragray.evaluation.report import Document, Example, configurations, examples, introduction, lead, plain, sections
from ragray.evaluation.sections import escape_markdown as escape
from ragray.evaluation.sections import markdown_section, markdown_tiles
from ragray.evaluation.summary import CELLS, MAIN_CELL


def render_markdown(document: Document) -> str:
    """The report in Markdown (GitHub's tables)."""
    parts = [f"# Evaluation of {escape(document.name)}", introduction(document)]
    parts.append(markdown_tiles(lead(document)))
    parts += [markdown_section(section) for section in sections(document)]
    parts.append(f'## Worst answers\n\nOf the cell "{CELLS[MAIN_CELL]}".')
    parts += [_example(example) for example in examples(document)]
    parts.append("## Settings")
    for stage, text in configurations(document).items():
        parts.append(f"`{stage}`:\n\n" + "\n".join(f"    {line}" for line in text.splitlines()))
    return "\n\n".join(parts) + "\n"


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
