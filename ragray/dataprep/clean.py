"""From a raw row to a record, or to a rejection with its reason.

In: raw rows of one file. Out: one outcome for each, independent of all other rows. `clean_row` is the rule;
`clean_table` does the same for a whole table, and most rows of it in compiled code.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from ragray.config_data import CleanConfig
from ragray.dataprep import filters
from ragray.dataprep.contacts import without_contacts
from ragray.dataprep.language import convert_chinese, detect_language, script_of
from ragray.dataprep.masking import masked
from ragray.dataprep.normalize import TEXT_STEPS, Step, repair_mojibake, run_steps
from ragray.dataprep.rows import SHOWN_CHARS, RawRow
from ragray.dataprep.sources import REPLACEMENT, InputFile
from ragray.schema import QARecord, Rejected

Trace = dict[str, tuple[str, str]]  # for each step: a text before and after all steps

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class Cleaned:
    """The outcome of each raw row in order, `reason` "" for a record; and rows changed by each step, with examples."""

    table: pa.Table
    changed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)


OUTCOME = pa.schema(
    [("ordinal", pa.int64()), ("line", pa.int64())]
    + [(n, pa.string()) for n in ("id", "question", "answer", "lang", "script", "reason", "detail", "text")]
)


def clean_table(raw: pa.Table, file: InputFile, settings: CleanConfig) -> Cleaned:
    """The outcome of each row of a table of `rows.RAW_SCHEMA`: that of `clean_row`."""
    from ragray.dataprep.clean_columns import clean_columns

    return clean_columns(raw, file, settings)


def clean_row(row: RawRow, file: InputFile, settings: CleanConfig) -> QARecord | Rejected:
    """The record in a row, cleaned; or why it is none. A row that breaks a step is rejected as `unprocessable`."""
    return clean_and_trace(row, file, settings)[0]


def clean_and_trace(row: RawRow, file: InputFile, settings: CleanConfig) -> tuple[QARecord | Rejected, Trace]:
    """The outcome of a row, and for each step that changed it the question and answer before and after."""
    if row.reason:
        return Rejected(file.source, row.line, row.reason, row.detail, row.text), {}
    try:
        return _clean(row, file, settings)
    except (ImportError, MemoryError):  # a fault of the machine, not of the row
        raise
    except Exception as error:  # noqa: BLE001  (one row that nobody foresaw must not stop a block of thousands)
        detail = f"cleaning failed with {type(error).__name__}"
        return Rejected(file.source, row.line, "unprocessable", detail, _shown(row, settings)), {}


def _clean(row: RawRow, file: InputFile, settings: CleanConfig) -> tuple[QARecord | Rejected, Trace]:
    question, answer, trace = clean_fields(row, settings)
    return judge(row, question, answer, file, settings), trace


def judge(row: RawRow, question: str, answer: str, file: InputFile, settings: CleanConfig) -> QARecord | Rejected:
    """The record of a row with its cleaned question and answer; or why it is none."""
    lang = language_of(row.lang, question, answer)
    fault = _fault(row, question, answer, settings) or _refused(lang, question, answer, settings)
    if fault is not None:
        return Rejected(file.source, row.line, *fault, _shown(row, settings))
    script = script_of(question + answer) if lang == "zh" else ""
    id_ = row.id or f"{file.label}-{row.ordinal:04d}"
    return QARecord(id_, question, answer, lang, file.source, row.line, script=script)


def clean_fields(row: RawRow, settings: CleanConfig) -> tuple[str, str, Trace]:
    """The question and the answer after all row-wise steps, and what each step that changed them made of them."""
    question, of_question = clean_question(row.question, settings)
    answer, of_answer = clean_answer(row.answer, question, settings)
    before = [masked(text, settings.mask) if settings.mask else text for text in (row.question, row.answer)]
    trace = dict.fromkeys(of_question, (before[0], question))
    return question, answer, trace | dict.fromkeys(of_answer, (before[1], answer))


def clean_question(text: str, settings: CleanConfig) -> tuple[str, list[str]]:
    """A question on one line after the steps, and the names of the steps that changed it."""
    cleaned, changed = run_steps(text, steps_for(settings))
    line = " ".join(cleaned.split())
    return line, changed if line == cleaned else list(dict.fromkeys([*changed, "whitespace"]))


def clean_answer(text: str, question: str, settings: CleanConfig) -> tuple[str, list[str]]:
    """An answer to a cleaned question after the steps, and the names of the steps that changed it."""
    return run_steps(text, steps_for(settings, question))


def steps_for(settings: CleanConfig, question: str | None = None) -> dict[str, Step]:
    """The row-wise steps that are switched on, in order; contacts are taken out of answers (with a `question`) only."""
    known: dict[str, Step] = {"mojibake": repair_mojibake, **TEXT_STEPS}
    if question is not None:
        known["contacts"] = functools.partial(without_contacts, question=question)
    steps: dict[str, Step] = {name: known[name] for name in settings.steps if name in known}
    if settings.chinese != "keep":
        steps["chinese"] = functools.partial(convert_chinese, target=settings.chinese)
    if settings.mask:
        steps["mask"] = functools.partial(masked, kinds=settings.mask)
    return steps


def _shown(row: RawRow, settings: CleanConfig) -> str:
    """The beginning of a row for the report, with nothing in it that is to be masked."""
    text = f"{row.question.strip()}\t{row.answer.strip()}".strip()
    return (masked(text, settings.mask) if settings.mask else text)[:SHOWN_CHARS]


def _refused(lang: str, question: str, answer: str, settings: CleanConfig) -> tuple[str, str] | None:
    if lang not in settings.languages:
        return "language", f"the language is {lang}, data.clean.languages is {', '.join(settings.languages)}"
    return filters.verdict("question", question, settings) or filters.verdict("answer", answer, settings)


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


def language_of(given: str, question: str, answer: str) -> str:
    """The language as a column gives it ("zh-CN" is "zh"), else as the question shows it, else the answer."""
    code = given.lower().replace("_", "-").split("-")[0]
    if code:
        return code if code in ("zh", "en") else "other"
    found = detect_language(question)
    return found if found != "other" else detect_language(answer)
