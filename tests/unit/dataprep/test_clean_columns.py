"""The compiled way is the plain one: every row, every field, every count."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ragray.config_data import CleanConfig, FaqSourceConfig, RepetitionConfig
from ragray.dataprep import clean
from ragray.dataprep.clean import Cleaned, clean_and_trace, clean_table
from ragray.dataprep.read import faq_files, read_rows
from ragray.dataprep.rows import RAW_SCHEMA, RawRow, raw_table
from ragray.dataprep.sources import InputFile

FILE = InputFile(Path("faq.csv"), "faq.csv", "faq")
BUNDLED = sorted((Path(__file__).parents[3] / "data" / "faq").glob("*.*"))
SETTINGS = (
    CleanConfig(),
    CleanConfig(steps=("html", "whitespace"), mask=("email",), languages=("zh", "en")),
    CleanConfig(
        max_question_chars=20, max_answer_chars=30, max_symbol_share=0.2, repetition=RepetitionConfig(min_words=4)
    ),
)
# Pieces on which steps act, and such that must not be taken for them.
PIECES = (
    "a b", "the ", "what is", "der die das ist", "中文", "臺灣", "どう", "é", "â€™", "e\u0301", "１", "Ａ", "！",
    "（", "㈠", "ﬁ", "\u200b", "\ufeff", "\x00", "\x85", "\r\n", "\r", "\n", "\n\n\n", " ", "\t",
    "\u3000", "\xa0", "<p>", "</p>", "<br/>", "<b>", "</b>", "<B >", "<i>x</i>", "<div class='x'>",
    "<!-- c -->", "<script>", "x<p>", "< ", "<ſ>", "&nbsp;", "&amp;", "&lt;", "&", "&#39;", "&am", "p;",
    "&#xe000;0&#xe001;", "{{ x }}", "{%", "%}", "{", "`", "```\n", "~~~", "https://a.b/c", "](x)", "联系",
    "我们。", "contact us.", "call", "12345678", "a@b.cd", "#", "...", "…", "***", "lorem ipsum", "\ufffd",
    "\ue000", "\U00020000", "\U0001f600", "·", "・", "\u0130", "²", "①",
)  # fmt: skip
WORDS = ("a", "bb", "中", "文", "c,", "d.", "。", "\n", "https://x.y", "`e`", "f")
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.text(max_size=30))


def expected(rows: list[RawRow], config: CleanConfig) -> tuple[list[dict[str, object]], Counter[str]]:
    """What the row-wise rules say."""
    table, changed = [], Counter[str]()
    for row in rows:
        outcome, trace = clean_and_trace(row, FILE, config)
        changed.update(trace.keys())
        found = {name: getattr(outcome, name, "") for name in clean.OUTCOME.names}
        table.append(found | {"ordinal": row.ordinal, "line": row.line, "id": row.id or f"faq-{row.ordinal:04d}"})
    return table, changed


def check(rows: list[RawRow], config: CleanConfig) -> None:
    cleaned = clean_table(raw_table(rows), FILE, config)
    table, changed = expected(rows, config)
    for found, wanted in zip(cleaned.table.to_pylist(), table, strict=True):
        assert found == wanted
    assert cleaned.changed == changed


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from(["", "x"]), st.sampled_from(["", "zh-CN", "de"])), max_size=6))
@example([("\ue0005\ue001", "a&#xe000;0&#xe001;`b`", "", "")])
@example([("中<p>文", "x<b>y</b>&nbsp;&lt;p&gt;", "", "")])
def test_any_text(fields: list[tuple[str, str, str, str]]) -> None:
    readable = [RawRow.readable(n, q, a, f"{i}{n}" if i else "", lang) for n, (q, a, i, lang) in enumerate(fields)]
    rows = [RawRow(n, row.line, row.question, row.answer, row.id, row.lang) for n, row in enumerate(readable, 1)]
    for config in SETTINGS:
        check(rows, config)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=30, max_size=90))
def test_repetition(words: list[str]) -> None:
    config = CleanConfig(steps=(), repetition=RepetitionConfig(min_words=10))
    check([RawRow(1, 1, "What is it?", " ".join(words))], config)
    check([RawRow(1, 1, "What is it?", " ".join(words))], CleanConfig(repetition=RepetitionConfig(min_words=10)))


@pytest.mark.parametrize("config", SETTINGS)
@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.name)
def test_bundled_data(path: Path, config: CleanConfig) -> None:
    columns = {"question": "问题", "answer": "答案"} if path.suffix == ".csv" else {}
    (file,) = faq_files([FaqSourceConfig.model_validate({"path": str(path), "columns": columns})])
    rows = list(read_rows(file))
    assert len(rows) > 20
    check(rows, config)


def test_unreadable_and_broken_rows() -> None:
    rows = [
        RawRow(1, 1, "What is it?", "A thing."),
        RawRow(2, 2, reason="broken_line", detail="why", text="what"),
        RawRow(3, 3, "te\ufffdxt", "text"),
        RawRow(4, 4, "text", "text", id="\ufffd"),
        RawRow(5, 5),
    ]
    check(rows, CleanConfig())


def test_a_row_that_breaks_a_step_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: str) -> str:
        if "poison" in text:
            raise RecursionError("too deep")
        return text

    monkeypatch.setitem(clean.TEXT_STEPS, "templates", fail)
    rows = [RawRow(1, 1, "good", "text"), RawRow(2, 2, "bad", "{{ poison"), RawRow(3, 3, "also good", "{{ text")]
    found = clean_table(raw_table(rows), FILE, CleanConfig()).table.to_pylist()
    assert [row["reason"] for row in found] == ["", "unprocessable", ""]
    assert "RecursionError" in found[1]["detail"] and found[1]["text"] == "bad\t{{ poison"
    check(rows, CleanConfig())


def test_bytes_that_are_no_text() -> None:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 4, 8)))
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"good\xe4\xbdxx")])
    raw = raw_table([RawRow(1, 1, "a question", "a"), RawRow(2, 2, "a question", "b")])
    raw = raw.set_column(RAW_SCHEMA.names.index("answer"), "answer", broken)
    found = clean_table(raw, FILE, CleanConfig()).table.to_pylist()
    assert [row["reason"] for row in found] == ["", "bad_encoding"]


def test_parts_are_cleaned_as_the_whole() -> None:
    rows = [RawRow(n, n, f"What is <b>{n}</b>?", f"Ｔhing  {n}\u200b") for n in range(1, 30)]
    whole = clean_table(raw_table(rows), FILE, CleanConfig())
    parts = [clean_table(raw_table(rows).slice(k, 7), FILE, CleanConfig()) for k in range(0, 29, 7)]
    assert pa.concat_tables([part.table for part in parts]).combine_chunks() == whole.table.combine_chunks()
    assert sum((part.changed for part in parts), Counter()) == whole.changed


def test_examples_are_the_first_rows_that_changed() -> None:
    rows = [RawRow(n, n, "What is it?", answer) for n, answer in enumerate(["good", "a <b>b</b>", "ｘ1", "c&amp;d"], 1)]
    found: Cleaned = clean_table(raw_table(rows), FILE, CleanConfig())
    assert found.examples["html"] == [("a <b>b</b>", "a b"), ("c&amp;d", "c&d")]
    assert found.examples["unicode"] == [("ｘ1", "x1")]
    assert found.changed == Counter(html=2, unicode=1)


def test_no_rows() -> None:
    assert clean_table(raw_table([]), FILE, CleanConfig()).table.schema == clean.OUTCOME
