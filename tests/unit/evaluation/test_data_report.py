"""The report of the data: complete, escaped, drawn with the right figures, the same bytes each time."""

import base64
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ragray.evaluation import data_charts
from ragray.evaluation.data_report import CHARTS, write_data_report
from ragray.schema import Duplicate, QARecord, Rejected, table_of

HOSTILE = "<script>alert(1)</script> | [x](http://x) `$\\frac$` \u202ereversed"
LEAKAGE = pa.schema(
    [(name, pa.string()) for name in ("test_id", "test_question", "train_id", "train_question")]
    + [("jaccard", pa.float64()), ("cosine", pa.float64()), ("leaked", pa.bool_())]
)


class Page(HTMLParser):
    """Tables as lists of rows of texts, and all tags and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._heading = ""
        self._into: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "h2":
            self._into = []
        elif tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        elif tag in ("td", "th"):
            self._into = []

    def handle_endtag(self, tag):
        if tag == "h2":
            self._heading = "".join(self._into or [])
        elif tag in ("td", "th"):
            self.tables[self._heading][-1].append("".join(self._into or []))

    def handle_data(self, data):
        if self._into is not None:
            self._into.append(data)


def record(n: int, split: str = "train", **fields) -> QARecord:
    given = {"question": f"question {n}", "lang": "en", **fields}
    return QARecord(id=f"r{n}", answer=f"answer {n}", source="a.jsonl", line=n, group=f"r{n}", split=split, **given)


def duplicate(n: int, of: str, method: str = "exact", similarity: float = 1.0) -> Duplicate:
    return Duplicate(f"d{n}", of, method, similarity, "b.csv", n)


RECORDS = [
    record(1, question=HOSTILE),
    record(2, "test", lang="zh", script="Hans", question="怎样退货？"),
    record(3, "valid", lang="zh", script="Hant"),
    record(4, lang="zh", script="Hans"),
]
REJECTED = [Rejected("a.jsonl", 100 + n, "too_short", "has 1 character, fewer than 2", f"text {n}") for n in range(5)]
REJECTED.insert(2, Rejected("目录/<b>.csv", 7, "broken_line", "not a JSON object", HOSTILE))
# r4 stands for seven others, r2 for one
DUPLICATES = [duplicate(1, "r2", "near", 0.91), *(duplicate(n, "r4") for n in range(2, 9))]
PAIRS = [
    {"test_id": "r2", "test_question": "怎样退货？", "train_id": "r1", "train_question": HOSTILE, "jaccard": 0.75,
     "cosine": 0.5, "leaked": True},
]  # fmt: skip
COUNTS = {
    "rows_in": 18, "records": 4, "rejected": 6, "duplicates": 8, "train": 2, "valid": 1, "test": 1, "passages": 9,
    "questions": 3, "rejected.too_short": 5, "rejected.broken_line": 1,
}  # fmt: skip
METRICS = {
    "sources": {
        "a.jsonl": {"rows_in": 9, "records": 4, "rejected": 5, "duplicates": 0},
        "目录/<b>.csv": {"rows_in": 9, "records": 0, "rejected": 1, "duplicates": 8},
    },
    "steps": {"html": 2, "whitespace": 11},
    "step_examples": {"html": [["<p>A</p>", "A"]], "whitespace": [["A\u3000B", "A B"], [" C", "C"]]},
    "leakage": {
        "tests": 1, "sampled": 1, "leaked": 1, "leaked_share": 1.0, "threshold": 0.7, "cosine_threshold": 0.97,
        "histogram": {"jaccard": [0] * 7 + [1, 0, 0], "cosine": [0] * 5 + [1] + [0] * 4},
    },
    "banding": {"threshold": 0.85, "bands": 16, "rows": 8},
    "lengths": {
        "question_before": [1, 0, 2, 3], "question_after": [0, 0, 2, 2],
        "answer_before": [0, 0, 0, 6, 0], "answer_after": [0, 0, 0, 4, 0],
    },
    "languages": {"before": {"zh-Hans": 3, "en": 4, "other": 1}, "after": {"zh-Hans": 2, "zh-Hant": 1, "en": 1}},
}  # fmt: skip


def write_tables(folder, records=RECORDS, rejected=REJECTED, duplicates=DUPLICATES, pairs=PAIRS):
    folder.mkdir()
    pq.write_table(table_of(QARecord, records), folder / "records.parquet")
    pq.write_table(table_of(Rejected, rejected), folder / "rejected.parquet", row_group_size=2)
    pq.write_table(table_of(Duplicate, duplicates), folder / "duplicates.parquet")
    pq.write_table(pa.Table.from_pylist(pairs, schema=LEAKAGE), folder / "leakage.parquet")
    return folder


@pytest.fixture
def folder(tmp_path):
    write_tables(tmp_path / "prepare")
    write_data_report(tmp_path / "prepare", "shop", COUNTS, METRICS)
    return tmp_path / "prepare"


@pytest.fixture
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_funnel_accounts_for_every_row(page):
    steps = {name: rows for name, rows, _ in page.tables["What became of each row"][1:]}
    assert steps == {
        "rows in": "18", "rejected: too_short": "5", "rejected: broken_line": "1", "duplicates: exact": "7",
        "duplicates: near": "1", "records": "4", "train": "2", "valid": "1", "test": "1",
    }  # fmt: skip


def test_each_reason_has_its_first_three_rows(page):
    rows = page.tables["Rejected rows"][1:]
    assert [row[:3] for row in rows] == [
        ["too_short", "5", "a.jsonl:100"], ["", "", "a.jsonl:101"], ["", "", "a.jsonl:102"],
        ["broken_line", "1", "目录/<b>.csv:7"],
    ]  # fmt: skip
    assert rows[0][3:] == ["text 0", "has 1 character, fewer than 2"]


def test_hostile_text_shows_as_it_is_and_does_nothing(folder, page):
    assert page.tables["Rejected rows"][-1][3] == HOSTILE.replace("\u202e", r"\u202e")
    assert page.tags.isdisjoint({"script", "a", "link", "iframe", "b>"})
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for dangerous in ("<script>", "[x](", "http://", "\u202e"):
        assert dangerous not in markdown
        assert dangerous not in (folder / "report.html").read_text(encoding="utf-8").replace("[x](http://x)", "")


def test_steps_show_what_they_changed(page):
    assert page.tables["Cleaning"][1:] == [
        ["whitespace", "11", r"A\u3000B", "A B"], ["", "", "·C", "C"], ["html", "2", "<p>A</p>", "A"],
    ]  # fmt: skip


def test_lengths_and_languages_stand_beside_each_other(page):
    assert page.tables["Lengths"][1:] == [
        ["0-1", "1", "0", "0", "0"], ["2-3", "0", "0", "0", "0"], ["4-7", "2", "2", "0", "0"],
        ["8-15", "3", "2", "6", "4"],
    ]  # fmt: skip
    assert page.tables["Languages"][1:] == [
        ["Chinese, simplified", "3", "2"], ["Chinese, traditional", "0", "1"], ["English", "4", "1"],
        ["other", "1", "0"],
    ]  # fmt: skip


def test_clusters_are_counted_by_size_and_the_kept_record_is_marked(page):
    assert page.tables["Duplicates"][1:] == [["2", "1"], ["5 to 8", "1"]]
    rows = page.tables["Largest clusters"][1:]
    assert rows[0] == ["1: 8 texts", "kept", "r4", "a.jsonl:4", "question 4"]
    assert [row[2] for row in rows[1:6]] == ["d2", "d3", "d4", "d5", "d6"]
    assert rows[6][1] == "and 2 more"
    assert rows[7:] == [
        ["2: 2 texts", "kept", "r2", "a.jsonl:2", "怎样退货？"], ["", "near 0.91", "d1", "b.csv:1", "-"],
    ]  # fmt: skip


def test_duplicates_show_their_questions_where_the_table_holds_them(tmp_path):
    folder = write_tables(tmp_path / "prepare")
    table = table_of(Duplicate, DUPLICATES)
    asked = table.append_column("question", pa.array([f"asked {n}" for n in range(len(table))]))
    pq.write_table(asked, folder / "duplicates.parquet")
    write_data_report(folder, "shop", COUNTS, METRICS)
    assert Page((folder / "report.html").read_text()).tables["Largest clusters"][-1][-1] == "asked 0"


def test_leaks_and_splits(page):
    assert page.tables["Leakage"][8] == ["0.7 to 0.8", "1", "0"]
    assert page.tables["Nearest pairs"][1][:4] == ["0.750", "0.500", "yes", "r2"]
    assert page.tables["Splits by language"][1:] == [
        ["English", "1 (100.0%)", "0 (0.0%)", "0 (0.0%)", "1"],
        ["Chinese, simplified", "1 (50.0%)", "0 (0.0%)", "1 (50.0%)", "2"],
        ["Chinese, traditional", "0 (0.0%)", "1 (100.0%)", "0 (0.0%)", "1"],
        ["all", "2 (50.0%)", "1 (25.0%)", "1 (25.0%)", "4"],
    ]


@pytest.mark.parametrize(("sampled", "said"), [(2500, "All 2,500 test"), (1000, "1,000 of the 2,500 test")])
def test_the_report_says_which_test_questions_the_histogram_shows(tmp_path, sampled, said):
    folder = write_tables(tmp_path / "prepare")
    leakage = {**METRICS["leakage"], "tests": 2500, "sampled": sampled, "leaked": 5, "leaked_share": 0.002}
    write_data_report(folder, "shop", COUNTS, {**METRICS, "leakage": leakage})
    note = f"{said} questions by the nearest training question. Of all, 5 (0.20%) are leaks"
    assert note in (folder / "report.md").read_text()


def test_many_sources_become_one_row(tmp_path):
    one = {"rows_in": 2, "records": 1, "rejected": 1, "duplicates": 0}
    folder = write_tables(tmp_path / "prepare")
    write_data_report(folder, "shop", COUNTS, {**METRICS, "sources": {f"s{n:03}": one for n in range(100)}})
    rows = Page((folder / "report.html").read_text()).tables["Sources"]
    assert len(rows) == 1 + 40 + 1
    assert rows[-1] == ["60 others", "120", "60", "60", "0"]


def test_both_forms_hold_the_same_tables_and_charts(folder, page):
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE)
    assert len(blocks) == len(page.tables)
    for block, rows in zip(blocks, page.tables.values(), strict=True):
        lines = block.splitlines()
        assert len(lines) == len(rows) + 1
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(rows[0]) + 1}
    inside = {base64.b64decode(link.partition(",")[2]) for link in page.links}
    assert inside == {path.read_bytes() for path in (folder / "charts").iterdir()}
    for name in CHARTS:
        assert f"(charts/{name}.svg)" in markdown
        assert ElementTree.parse(folder / "charts" / f"{name}.svg").getroot().tag.endswith("svg")


def test_equal_tables_give_equal_bytes(tmp_path):
    found = []
    for name in ("a", "b"):
        folder = write_tables(tmp_path / name)
        write_data_report(folder, "shop", COUNTS, METRICS)
        found.append({p.name: p.read_bytes() for p in folder.rglob("*") if p.suffix != ".parquet" and p.is_file()})
    assert found[0] == found[1]
    assert b"<dc:date>" not in b"".join(found[0].values())


def test_an_empty_data_set_has_a_report(tmp_path):
    folder = write_tables(tmp_path / "prepare", [], [], [], [])
    nothing = [0] * 10
    metrics = {
        **METRICS, "sources": {}, "steps": {}, "step_examples": {}, "languages": {"before": {}, "after": {}},
        "lengths": dict.fromkeys(METRICS["lengths"], nothing),
        "leakage": {**METRICS["leakage"], "tests": 0, "sampled": 0, "leaked": 0, "leaked_share": 0.0,
                    "histogram": {"jaccard": nothing, "cosine": nothing}},
    }  # fmt: skip
    write_data_report(folder, "shop", dict.fromkeys(COUNTS, 0), metrics)
    markdown = (folder / "report.md").read_text()
    for sentence in ("No row was rejected.", "No duplicates were found.", "No step changed a row."):
        assert sentence in markdown


def test_the_funnel_falls_from_the_rows_in_to_the_records():
    steps = [("in", 10, "in"), ("a", 3, "out"), ("b", 1, "out"), ("records", 6, "kept"), ("x", 4, "split"),
             ("y", 2, "split")]  # fmt: skip
    assert data_charts._starts(steps) == [0, 7, 6, 0, 0, 4]


def test_labels_of_charts_need_no_font_beyond_ascii():
    assert data_charts._drawable("方法 x") == "?? x"
    assert data_charts._drawable("y" * 40) == "y" * 25 + "..."
    assert "<svg" in data_charts.draw_bars({"$\\frac$": 1, "方法": 2})


def test_bars_beyond_the_most_frequent_are_one(monkeypatch):
    drawn = []
    monkeypatch.setattr(data_charts, "draw_funnel", drawn.append)
    data_charts.draw_bars({f"m{n:02}": 100 - n for n in range(30)})
    assert len(drawn[0]) == 25
    assert drawn[0][0] == ("m00", 100, "kept")
    assert drawn[0][-1] == ("all others", sum(100 - n for n in range(24, 30)), "kept")
