"""From a raw row to a record, or to a rejection with its reason.

In: `RawRow`s of one file. Out: `QARecord | Rejected`, one for each row, independent of all other rows.
"""

from __future__ import annotations

import re

from ragray.config import CleanConfig
from ragray.dataprep.language import detect_language
from ragray.dataprep.normalize import clean_line, clean_text
from ragray.dataprep.rows import SHOWN_CHARS, RawRow
from ragray.dataprep.sources import REPLACEMENT, InputFile
from ragray.schema import QARecord, Rejected

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def clean_row(row: RawRow, file: InputFile, settings: CleanConfig) -> QARecord | Rejected:
    """The record in a row, cleaned; or why it is none."""
    if row.reason:
        return Rejected(file.source, row.line, row.reason, row.detail, row.text)
    question, answer = clean_line(row.question), clean_text(row.answer)
    fault = _fault(row, question, answer, settings)
    if fault is not None:
        text = f"{row.question.strip()}\t{row.answer.strip()}".strip()[:SHOWN_CHARS]
        return Rejected(file.source, row.line, *fault, text)
    return QARecord(
        id=row.id or f"{file.label}-{row.ordinal:04d}",
        question=question,
        answer=answer,
        lang=_language(row.lang, question, answer),
        source=file.source,
        line=row.line,
    )


def _fault(row: RawRow, question: str, answer: str, settings: CleanConfig) -> tuple[str, str] | None:
    """(reason code, one sentence), or None for a sound record."""
    if REPLACEMENT in row.question or REPLACEMENT in row.answer or REPLACEMENT in row.id:
        return "bad_encoding", "holds bytes that are not text in the file's encoding"
    for name, text in (("question", question), ("answer", answer)):
        if not text:
            return f"empty_{name}", f"the {name} is empty"
    for name, text in (("question", question), ("answer", answer)):
        if not _LETTER_OR_DIGIT.search(text):
            return "not_text", f"the {name} has no letter or digit"
    for name, text, shortest, longest in (
        ("question", question, settings.min_question_chars, settings.max_question_chars),
        ("answer", answer, settings.min_answer_chars, settings.max_answer_chars),
    ):
        if len(text) < shortest:
            return "too_short", f"the {name} has {len(text)} characters, data.clean.min_{name}_chars is {shortest}"
        if len(text) > longest:
            return "too_long", f"the {name} has {len(text)} characters, data.clean.max_{name}_chars is {longest}"
    return None


def _language(given: str, question: str, answer: str) -> str:
    """The language as a column gives it ("zh-CN" is "zh"), else as the question shows it, else the answer."""
    code = given.lower().replace("_", "-").split("-")[0]
    if code:
        return code if code in ("zh", "en") else "other"
    found = detect_language(question)
    return found if found != "other" else detect_language(answer)
