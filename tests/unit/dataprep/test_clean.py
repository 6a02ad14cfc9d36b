from pathlib import Path

import pytest

from ragray.config_data import CleanConfig
from ragray.dataprep.clean import clean_row
from ragray.dataprep.rows import RawRow
from ragray.dataprep.sources import InputFile
from ragray.schema import QARecord, Rejected

FILE = InputFile(Path("faq.csv"), "faq.csv", "faq")
SETTINGS = CleanConfig(max_question_chars=20, max_answer_chars=30)


def test_record() -> None:
    row = RawRow(7, 12, " <b>What</b> is\n it? ", "A&nbsp;thing.")
    assert clean_row(row, FILE, SETTINGS) == QARecord("faq-0007", "What is it?", "A thing.", "en", "faq.csv", 12)


@pytest.mark.parametrize(("given", "lang"), [("zh-CN", "zh"), ("EN_us", "en"), ("de", "other"), ("", "en")])
def test_language_column_wins(given: str, lang: str) -> None:
    record = clean_row(RawRow(1, 1, "What is it?", "A thing.", "x", given), FILE, SETTINGS)
    assert isinstance(record, QARecord) and (record.id, record.lang) == ("x", lang)


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("<p></p>", "text", "empty_question"),
        ("text", " \u200b ", "empty_answer"),
        ("???", "text", "not_text"),
        ("text", "----", "not_text"),
        ("x", "text", "too_short"),
        ("t" * 21, "text", "too_long"),
        ("text", "t" * 31, "too_long"),
        ("te\ufffdxt", "text", "bad_encoding"),
    ],
)
def test_reasons(question: str, answer: str, reason: str) -> None:
    found = clean_row(RawRow(1, 9, question, answer), FILE, SETTINGS)
    assert isinstance(found, Rejected)
    assert (found.reason, found.line, found.source) == (reason, 9, "faq.csv")
    assert found.detail


def test_unreadable_row_keeps_its_reason() -> None:
    row = RawRow(1, 2, reason="broken_line", detail="why", text="what")
    assert clean_row(row, FILE, SETTINGS) == Rejected("faq.csv", 2, "broken_line", "why", "what")
