from pathlib import Path

import pyarrow.compute as pc
import pytest

from ragray.dataprep.questions import Known, draw_questions, questions_of_test_split, read_questions, resolve_questions
from ragray.errors import DataError
from ragray.schema import EvalQuestion, QARecord, records_of, table_of

RECORDS = [
    QARecord("faq-0001", "Q1?", "A1.", "en", "f", 1, "g", "test"),
    QARecord("faq-0003", "Q3?", "A1.", "en", "f", 3, "g", "test"),
]
OTHERS = [
    QARecord("faq-0004", "Q4?", "A4.", "en", "f", 4, "h", "test"),
    QARecord("faq-0005", "Q5?", "a1", "en", "f", 5, "g", "test"),
    QARecord("faq-0006", "Q6?", "A6.", "en", "f", 6, "g", "test"),
    QARecord("faq-0007", "Q7?", "A1.", "en", "f", 7, "i", "train"),
]

KNOWN = Known(
    {record.id: record.answer for record in RECORDS},
    {"faq-0002": "faq-0001"},
    {"faq-0009": "empty_answer"},
    lambda: ["faq-0001", "faq-0002", "faq-0003"],
)


def test_ids_go_through_duplicates() -> None:
    asked = EvalQuestion("q", "Q?", "en", ("faq-0002", "faq-0001"))
    (found,) = resolve_questions([asked], KNOWN)
    assert found.answer_ids == ("faq-0001",) and found.answers == ("A1.",)
    assert resolve_questions([EvalQuestion("n", "?", "en")], KNOWN)[0].answers == ()


@pytest.mark.parametrize(
    ("answer_id", "message"), [("faq-001", "did you mean 'faq-0001'"), ("faq-0009", r"rejected \(empty_answer\)")]
)
def test_unknown_ids(answer_id: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        resolve_questions([EvalQuestion("q", "Q?", "en", (answer_id,))], KNOWN)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ('{"id": "1", "answer_ids": []}', "question is missing"),
        ('{"id": "1", "question": "x"}', "answer_ids is missing"),
        ('{"id": "0", "question": "x", "answer_ids": []}', "stands twice"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "0", "question": "What?", "answer_ids": []}\n' + line + "\n")
    with pytest.raises(DataError, match=message) as caught:
        read_questions(path)
    assert f"{path}:2" in caught.value.message


def test_the_test_split_asks_itself() -> None:
    records = table_of(QARecord, [*RECORDS, *OTHERS])
    test = records.filter(pc.equal(records.column("split"), "test"))
    found = records_of(EvalQuestion, questions_of_test_split(test))
    assert [(q.query_id, q.answer_ids) for q in found] == [
        ("faq-0001", ("faq-0001", "faq-0003", "faq-0005")), ("faq-0003", ("faq-0003", "faq-0001", "faq-0005")),
        ("faq-0004", ("faq-0004",)), ("faq-0005", ("faq-0005", "faq-0001", "faq-0003")), ("faq-0006", ("faq-0006",)),
    ]  # fmt: skip
    assert [q.answers for q in found] == [("A1.",), ("A1.",), ("A4.",), ("a1",), ("A6.",)]
    assert questions_of_test_split(test.slice(0, 0)).num_rows == 0


def test_drawing_keeps_order_and_depends_on_ids_alone() -> None:
    questions = [EvalQuestion(f"q{n}", "?", "en") for n in range(20)]
    drawn, again = (
        records_of(EvalQuestion, draw_questions(table_of(EvalQuestion, asked), 5, 1))
        for asked in (questions, questions[::-1])
    )
    assert len(drawn) == 5 and drawn == [q for q in questions if q in drawn]
    assert set(again) == set(drawn)
