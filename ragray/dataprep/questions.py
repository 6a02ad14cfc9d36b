"""Held-out questions with their reference answers.

In: the configuration's JSONL file, or the test split. Out: `EvalQuestion`s whose answer ids are records that
stayed, with the texts of their answers.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ragray.dataprep.dedup import normalized
from ragray.dataprep.language import detect_language
from ragray.dataprep.sources import check_readable, lines_of
from ragray.errors import DataError
from ragray.schema import EvalQuestion, stable_digest

_SETTING = "evaluate.questions"


def read_questions(path: Path) -> list[EvalQuestion]:
    """The questions of a JSONL file with `id`, `question`, optional `lang`, and `answer_ids` (empty: unanswerable).

    Raises:
        DataError: the file cannot be used; the line is named.
    """
    if not path.is_file():
        raise DataError(f"{_SETTING}: {path}: no such file", f"set {_SETTING} to a JSONL file, or remove it")
    check_readable(path)
    questions: dict[str, EvalQuestion] = {}
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        question = _parse(line, f"{path}:{number}")
        if question.query_id in questions:
            raise DataError(
                f"{path}:{number}: the id {question.query_id!r} stands twice", "give each question its own id"
            )
        questions[question.query_id] = question
    return list(questions.values())


def _parse(line: str, where: str) -> EvalQuestion:
    form = 'write it like {"id": "q1", "question": "...", "answer_ids": ["faq-0001"]}'
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not a JSON object: {error}", form) from None
    if not isinstance(entry, dict):
        raise DataError(f"{where}: not a JSON object", form)
    for key in ("id", "question"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise DataError(f"{where}: {key} is missing or not text", form)
    ids = entry.get("answer_ids")
    if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
        raise DataError(f"{where}: answer_ids is missing or not a list of record ids", form)
    lang = entry.get("lang") or detect_language(entry["question"])
    return EvalQuestion(entry["id"], entry["question"].strip(), str(lang), tuple(ids))


@dataclass(frozen=True)
class Known:
    """What is known of the records that questions name."""

    answers: Mapping[str, str]  # of records that stayed, by id
    duplicate_of: Mapping[str, str]  # the record that stands for each duplicate
    rejected: Mapping[str, str]  # reasons of rejected rows, by id
    all_ids: Callable[[], Sequence[str]]  # every record's id, for a hint in an error


def resolve_questions(questions: Sequence[EvalQuestion], known: Known) -> list[EvalQuestion]:
    """The questions with the ids of duplicates replaced by those of the records that stayed, and the answers.

    Raises:
        DataError: an id is not a record's.
    """
    resolved = []
    for question in questions:
        ids = []
        for answer_id in question.answer_ids:
            kept = known.duplicate_of.get(answer_id, answer_id)
            if kept not in known.answers:
                raise _unknown(question.query_id, answer_id, known)
            ids.append(kept)
        distinct = tuple(dict.fromkeys(ids))
        texts = tuple(dict.fromkeys(known.answers[i] for i in distinct))
        resolved.append(EvalQuestion(question.query_id, question.question, question.lang, distinct, texts))
    return resolved


def _unknown(query_id: str, answer_id: str, known: Known) -> DataError:
    if answer_id in known.rejected:
        return DataError(
            f"{_SETTING}: question {query_id!r} names {answer_id!r}, which was rejected ({known.rejected[answer_id]})",
            "correct that row, or take its id out of answer_ids",
        )
    ids = known.all_ids()
    close = difflib.get_close_matches(answer_id, ids, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; ids look like {ids[0]!r}" if ids else ""
    return DataError(
        f"{_SETTING}: question {query_id!r} names {answer_id!r}, but no record has this id{hint}",
        "correct answer_ids; `records.parquet` of the prepare artifact lists all ids",
    )


def questions_of_test_split(records: pa.Table) -> list[EvalQuestion]:
    """Each test record's own question; every test record of its group with the same answer counts as right."""
    test = records.filter(pc.equal(records.column("split"), "test"))
    ids, groups, questions, answers, languages = (
        test.column(name).to_pylist() for name in ("id", "group", "question", "answer", "lang")
    )
    sizes = Counter(groups)
    same_answer: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record_id, group, answer in zip(ids, groups, answers, strict=True):
        if sizes[group] > 1:
            same_answer[group, normalized(answer)].append(record_id)
    found = []
    for record_id, group, question, answer, lang in zip(ids, groups, questions, answers, languages, strict=True):
        others = same_answer[group, normalized(answer)] if sizes[group] > 1 else ()
        right = (record_id, *(other for other in others if other != record_id))
        found.append(EvalQuestion(record_id, question, lang, right, (answer,)))
    return found


def draw_questions(questions: Sequence[EvalQuestion], limit: int | None, seed: int) -> list[EvalQuestion]:
    """At most `limit` questions, chosen by the digest of their ids, in their order."""
    if limit is None or len(questions) <= limit:
        return list(questions)
    ranked = sorted(questions, key=lambda q: (stable_digest(seed, "question", q.query_id), q.query_id))
    chosen = {question.query_id for question in ranked[:limit]}
    return [question for question in questions if question.query_id in chosen]
