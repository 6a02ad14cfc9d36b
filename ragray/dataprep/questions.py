"""Held-out questions with their reference answers.

In: the configuration's JSONL file, or the test split. Out: `EvalQuestion`s whose answer ids are records that
stayed, with the texts of their answers.
"""

from __future__ import annotations

import difflib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ragray.dataprep.dedup import normalized
from ragray.dataprep.language import detect_language
from ragray.dataprep.rows import in_one_piece
from ragray.dataprep.sources import check_readable, lines_of
from ragray.errors import DataError
from ragray.schema import EvalQuestion, stable_digest

_SETTING = "evaluate.questions"
_AT_ONCE = 1 << 18  # questions


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


def questions_of_test_split(test: pa.Table) -> pa.Table:
    """Each test record's own question; every test record of its group with the same answer counts as right.

    Args:
        test: the records of the test split, with id, group, question, answer and lang.

    Returns:
        Columns of `EvalQuestion`, in the records' order.
    """
    rows, others = np.arange(len(test)), _others_with_the_same_answer(test)
    counts = np.array([1 + len(others.get(row, ())) for row in rows.tolist()], np.int64)
    starts = np.concatenate(([0], np.cumsum(counts)))
    right = np.empty(starts[-1], np.int64)
    right[starts[:-1]] = rows
    for row, found in others.items():
        right[starts[row] + 1 : starts[row + 1]] = found
    ids = test.column("id").cast(pa.large_string()).combine_chunks()
    parts = [EvalQuestion.schema.empty_table()]
    for begin in range(0, len(test), _AT_ONCE):
        part = test.slice(begin, _AT_ONCE)
        bounds = starts[begin : begin + len(part) + 1]
        answer_ids = ids.take(pa.array(right[bounds[0] : bounds[-1]])).cast(pa.string())
        answers = in_one_piece(part.column("answer"))
        columns = {
            "query_id": part.column("id"),
            "question": part.column("question"),
            "lang": part.column("lang"),
            "answer_ids": pa.ListArray.from_arrays(pa.array(bounds - bounds[0], pa.int32()), answer_ids),
            "answers": pa.ListArray.from_arrays(pa.array(np.arange(len(part) + 1), pa.int32()), answers),
        }
        parts.append(pa.table(columns).select(EvalQuestion.schema.names).cast(EvalQuestion.schema))
    return pa.concat_tables(parts)


def _others_with_the_same_answer(test: pa.Table) -> dict[int, list[int]]:
    """For each record of a group of several the others of it with the same answer; records by their place."""
    codes = np.asarray(pc.rank(test.column("group"), tiebreaker="dense")) if len(test) else np.empty(0, np.int64)
    several = np.flatnonzero(np.bincount(codes, minlength=1)[codes] > 1)
    answers = test.column("answer").take(pa.array(several)).to_pylist()
    same: dict[tuple[int, str], list[int]] = defaultdict(list)
    keys = [(code, normalized(answer)) for code, answer in zip(codes[several].tolist(), answers, strict=True)]
    for row, key in zip(several.tolist(), keys, strict=True):
        same[key].append(row)
    return {
        row: [other for other in same[key] if other != row] for row, key in zip(several.tolist(), keys, strict=True)
    }


def draw_questions(questions: pa.Table, limit: int | None, seed: int) -> pa.Table:
    """At most `limit` questions, columns of `EvalQuestion`, chosen by the digest of their ids, in their order."""
    if limit is None or len(questions) <= limit:
        return questions
    ids = questions.column("query_id").to_pylist()
    ranked = sorted(range(len(ids)), key=lambda n: (stable_digest(seed, "question", ids[n]), ids[n]))
    return questions.take(pa.array(sorted(ranked[:limit])))
