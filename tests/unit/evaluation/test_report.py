"""The report in both forms: complete, escaped, and the same bytes each time."""

import dataclasses
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from ragray.evaluation.charts import CHARTS, draw
from ragray.evaluation.markdown import escape, render_markdown
from ragray.evaluation.page import render_html
from ragray.evaluation.report import examples, sections
from ragray.evaluation.significance import Resampling
from ragray.evaluation.summary import CELLS, summarize

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page(document) -> Page:
    parsed = Page()
    parsed.feed(render_html(document, draw(document.summary)))
    assert parsed.open == []
    return parsed


def test_the_page_needs_nothing_else(page):
    assert len(page.links) == len(CHARTS)
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert page.tags.isdisjoint({"script", "link", "iframe", "a", "b>"})


def test_text_of_questions_shows_as_it_is(page):
    assert "logs | <script>alert(1)</script>" in page.text
    assert "Where | are <b>logs</b>?" in page.text
    assert "怎么停止" in page.text


def test_both_forms_hold_every_table(document, page):
    markdown = render_markdown(document)
    for section in sections(document):
        assert section.title in page.text
        assert f"## {section.title}" in markdown
        for row in section.rows:
            assert len(row) == len(section.header)
    for label in CELLS.values():
        assert label in page.text
        assert label in markdown


def test_what_was_evaluated_stands_whole(document, page):
    rows = {
        row[0]: row for section in sections(document) if section.title == "What was evaluated" for row in section.rows
    }
    assert rows["Index"][2] == document.manifests["index"].digest
    assert rows["Base model"][1:] == ("tiny", "b" * 64)
    assert rows["Code of the evaluation"][1:] == ("ragray 0.1.0", "a" * 64)
    assert rows["Packages"][1] == "ray 2.60.0"
    assert "Adapter" not in rows  # this run's manifests have none
    assert all(row[2] in page.text for row in rows.values())


def test_failures_of_the_judge_are_in_the_report(document):
    (section,) = (section for section in sections(document) if section.title == "Judge")
    ((criterion, mean, graded, failed, reasons, bounds),) = section.rows
    assert (criterion, mean.mean, graded, failed, reasons) == ("Correct", 0.75, "2", "1", "not_json 1")
    assert bounds == "0.500 to 0.830"
    assert "some-judge" in section.note and "f" * 16 in section.note


def test_without_a_judge_and_reworded_questions_there_is_no_word_of_them(document):
    plain = dataclasses.replace(document.summary, robustness=(), judge=None)
    titles = {section.title for section in sections(dataclasses.replace(document, summary=plain))}
    assert titles.isdisjoint({"Judge", "Robustness"})
    assert "robustness" not in draw(plain)


def test_tables_of_markdown_have_as_many_cells_in_each_row(document):
    blocks = re.findall(r"(?:^\|.*\n)+", render_markdown(document), flags=re.MULTILINE)
    assert len(blocks) == len(sections(document))
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_markdown_cannot_be_injected(document):
    markdown = render_markdown(document)
    assert "[x](http://x)" not in markdown
    assert "<script>" not in markdown
    assert escape("a\n# b | `c` <i> ![x](y)") == r"a \# b \| \`c\` \<i\> \!\[x\](y)"


def test_an_example_shows_all_that_led_to_it(document):
    found = {example.prediction.query_id: example for example in examples(document)}
    assert list(found) == ["q2", "q3", "q4", "q6"]
    assert found["q3"].reason == "the right passage was not among those shown"
    assert found["q6"].reason == "answered although nothing answers it"
    marks = [(p.passage.doc_id, p.right, p.cited) for p in found["q4"].passages]
    assert marks == [("en-2", True, False), ("en-1", False, True)]


def test_lineage_names_digests_and_no_places(document, page):
    assert "index-digest0000"[:16] in page.text
    assert "dddddddddddd" in page.text
    assert "somewhere" not in page.text + render_markdown(document)


def test_no_times_are_in_the_report(document, page):
    assert "3.14" not in page.text + render_markdown(document)


def test_equal_figures_give_equal_bytes(document):
    again = dataclasses.replace(document, predictions=document.predictions[::-1])
    charts = draw(document.summary)
    assert draw(again.summary) == charts
    assert render_html(again, charts) == render_html(document, charts)
    assert render_markdown(again) == render_markdown(document)


def test_charts_are_svg_without_a_date(document):
    charts = draw(document.summary)
    assert set(charts) == set(CHARTS)
    for svg in charts.values():
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "<dc:date>" not in svg


def test_charts_show_the_figures(document, retrieval_values, predictions):
    better = summarize(predictions, {**retrieval_values, "bm25": retrieval_values["hybrid"]}, Resampling(200, 17))
    charts, others = draw(document.summary), draw(better)
    assert others["retrieval"] != charts["retrieval"]
    assert others["answers"] == charts["answers"]


def test_a_report_without_unanswerable_questions_shows_a_dash(document, predictions, retrieval_values):
    answerable = tuple(p for p in predictions if p.answerable)
    summary = summarize(answerable, retrieval_values, Resampling(50, 1))
    without = dataclasses.replace(document, summary=summary, predictions=answerable)
    table = next(s for s in sections(without) if s.title == "Declines and citations")
    assert table.rows[0][1].mean is None
    assert "| Tuned model, with retrieval | - |" in render_markdown(without)
    assert "<td>-<small></small></td>" in render_html(without, draw(summary))
