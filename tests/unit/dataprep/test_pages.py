from pathlib import Path

from ragray.config_data import DataConfig, DocumentSourceConfig, FaqSourceConfig
from ragray.dataprep.pages import page_outline
from ragray.dataprep.passages import document_files, read_passages
from ragray.dataprep.read import faq_files, read_rows

PAGE = """<!DOCTYPE html><html><head><title>t</title><style>h2{}</style></head><body><nav><h2>menu</h2></nav>
<h1>Help</h1>
<h2 class="x">How <em>do</em>
 I?</h2>
<p>Do <code>x &lt; y</code> now.<br>Then wait.</p><ul><li>one<ul><li>inner</ul><li><p>two</p></ul><ol><li>a<li>b</ol>
<pre><code>def f():
    return "```"
</code></pre>
<table><tr><th>a<th>b|c</tr><tr><td>1<td><p>2</p><p>3</p></table>
<dl><dt>Term?<dd>Meaning
<dt>其他？<dd>解释</dl>After the list.
<details><summary>More?</summary><p>Detail</p></details>
<script>alert("<h2>no</h2>")</script><h3></h3><h2>Last?</h2>tail</body></html>"""


def test_headings_terms_and_summaries_are_sections() -> None:
    found = [(s.line, s.level, s.title) for s in page_outline(PAGE).sections]
    assert found == [
        (1, 0, ""), (2, 1, "Help"), (3, 2, "How do I?"), (10, 7, "Term?"), (11, 7, "其他？"), (12, 7, "More?"),
        (13, 2, "Last?"),
    ]  # fmt: skip


def test_code_lists_and_tables_keep_their_form() -> None:
    how = page_outline(PAGE).sections[2]
    assert "".join(how.body) == (
        "Do `x < y` now.\nThen wait.\n\n- one\n  - inner\n- two\n\n1. a\n2. b\n\n"
        '````\ndef f():\n    return "```"\n````\n| a | b\\|c |\n| 1 | 2 3 |\n\nAfter the list.\n'
    )


def test_nesting_has_no_limit() -> None:
    depth = 20_000
    outline = page_outline("<div>" * depth + "<h2>Q</h2>a" + "</div>" * depth)
    assert outline.sections[1].title == "Q" and "".join(outline.sections[1].body) == "a\n"


def test_rows_of_a_page_and_its_declared_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(PAGE.replace("<head>", '<head><meta charset="gbk">').encode("gb18030"))
    (file,) = faq_files([FaqSourceConfig(path=str(tmp_path / "a.html"))])
    rows = [(row.line, row.question, row.answer.strip()) for row in read_rows(file)]
    assert rows[1:] == [
        (10, "Term?", "Meaning"),
        (11, "其他？", "解释"),
        (12, "More?", "Detail"),
        (13, "Last?", "tail"),
    ]


def test_a_page_without_headings_is_searched_for_marks(tmp_path: Path) -> None:
    (tmp_path / "a.htm").write_text("<p>Q: One?<br>A: First<p>问：二？<p>答：对")
    (file,) = faq_files([FaqSourceConfig(path=str(tmp_path / "a.htm"))])
    rows = [(row.question.strip(), row.answer.strip()) for row in read_rows(file)]
    assert rows == [("One?", "First"), ("二？", "对")]


def test_passages_of_a_page_keep_code_and_rows_whole(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    settings = DataConfig.model_validate({"faq": [{"path": "x"}], "passage_chars": 60, "passage_overlap_chars": 10})
    passages = read_passages(document_files([DocumentSourceConfig(path=str(tmp_path))]), settings)
    assert {p.title for p in passages} == {
        "Help > How do I?", "Help > How do I? > Term?", "Help > How do I? > 其他？", "Help > How do I? > More?",
        "Help > Last?",
    }  # fmt: skip
    code = '````\ndef f():\n    return "```"\n````'
    assert sum(code in p.text for p in passages) == 1
    assert any("| a | b\\|c |" in p.text for p in passages)
