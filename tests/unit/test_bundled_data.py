"""The bundled FAQ and evaluation questions are what data/README.md says."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ragray.config_data import CleanConfig, DedupConfig, FaqSourceConfig, SplitConfig
from ragray.config_loading import load_config
from ragray.dataprep.clean import clean_row
from ragray.dataprep.dedup import normalized, remove_duplicates
from ragray.dataprep.read import faq_files, read_rows
from ragray.dataprep.shingles import question_shingles
from ragray.dataprep.split import split_records
from ragray.schema import Duplicate, QARecord, Rejected

ROOT = Path(__file__).parents[2]
FAQ = ROOT / "data" / "faq"
ENCODINGS = {
    "data_zh.jsonl": "utf-8",
    "engines_en.jsonl": "utf-8",
    "install_en.jsonl": "utf-8",
    "operations.csv": "utf-8-sig",
    "retrieval_en.txt": "utf-8",
    "serving.md": "utf-8",
    "training_zh.gb18030.txt": "gb18030",
}
PLANTED = {
    "html tag": (r"</?(p|b|div|code)\b[^>]*>", 12),
    "html line break": (r"<br/>", 4),
    "html entity": (r"&nbsp;", 7),
    "full-width form": (r"[Ａ-Ｚａ-ｚ０-９]", 10),
    "zero-width character": (r"[\u200b\ufeff]", 5),
    "control character": (r"[\x00-\x08\x0e-\x1f]|\\u00[01][0-9a-f]", 3),
}


@pytest.fixture(scope="module")
def rows() -> list[QARecord | Rejected]:
    sources = load_config(ROOT / "configs" / "demo.yaml").data.faq
    local = [source.model_copy(update={"path": str(ROOT / source.path)}) for source in sources]
    return [clean_row(row, file.file, CleanConfig()) for file in faq_files(local) for row in read_rows(file)]


@pytest.fixture(scope="module")
def kept(rows: list[QARecord | Rejected]) -> tuple[list[QARecord], list[Duplicate]]:
    return remove_duplicates([row for row in rows if isinstance(row, QARecord)], DedupConfig())


@pytest.fixture(scope="module")
def questions() -> list[dict[str, object]]:
    path = ROOT / "data" / "evaluation" / "questions.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def text_of(name: str) -> str:
    return (FAQ / name).read_bytes().decode(ENCODINGS[name])


def test_files_decode_in_their_encodings() -> None:
    assert {path.name for path in FAQ.iterdir()} == set(ENCODINGS)
    for name in ENCODINGS:
        assert text_of(name).strip()
    assert (FAQ / "operations.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    with pytest.raises(UnicodeDecodeError):
        (FAQ / "training_zh.gb18030.txt").read_bytes().decode("utf-8")


def test_rows_are_accounted_for(rows: list[QARecord | Rejected], kept: tuple[list[QARecord], list[Duplicate]]) -> None:
    records, duplicates = kept
    reasons = Counter(row.reason for row in rows if isinstance(row, Rejected))
    assert (len(rows), len(records), len(duplicates)) == (290, 267, 13)
    assert reasons == {"empty_answer": 8, "broken_line": 1, "bad_row": 1}
    assert Counter(duplicate.method for duplicate in duplicates) == {"exact": 7, "near": 6}
    assert sum(reasons.values()) < 0.15 * len(rows)


def test_half_is_chinese_and_half_english(kept: tuple[list[QARecord], list[Duplicate]]) -> None:
    langs = Counter(record.lang for record in kept[0])
    assert set(langs) == {"zh", "en"} and sum(langs.values()) >= 240
    assert 0.4 <= langs["zh"] / sum(langs.values()) <= 0.6


@pytest.mark.parametrize("kind", PLANTED)
def test_dirt_is_planted(kind: str) -> None:
    pattern, at_least = PLANTED[kind]
    assert sum(len(re.findall(pattern, text_of(name))) for name in ENCODINGS) >= at_least


@pytest.mark.parametrize("kind", PLANTED)
def test_cleaning_removes_the_dirt(kind: str, kept: tuple[list[QARecord], list[Duplicate]]) -> None:
    for record in kept[0]:
        assert not re.search(PLANTED[kind][0], record.question + record.answer), record.id


def test_duplicates_stand_within_and_across_files(kept: tuple[list[QARecord], list[Duplicate]]) -> None:
    pairs = {(d.id.rpartition("-")[0], d.duplicate_of.rpartition("-")[0]) for d in kept[1]}
    assert any(one == other for one, other in pairs) and any(one != other for one, other in pairs)


def test_evaluation_questions_name_records(
    questions: list[dict[str, object]], kept: tuple[list[QARecord], list[Duplicate]]
) -> None:
    known = {record.id: record.lang for record in kept[0]} | {d.id: "" for d in kept[1]}
    answerable = [question for question in questions if question["answer_ids"]]
    unanswerable = [question for question in questions if not question["answer_ids"]]
    assert len({question["id"] for question in questions}) == len(questions)
    assert len(answerable) >= 120 and len(unanswerable) >= 20
    for question in answerable:
        for record_id in question["answer_ids"]:  # type: ignore[attr-defined]
            assert known[record_id] in ("", question["lang"]), question
    for part in (answerable, unanswerable):
        share = sum(question["lang"] == "zh" for question in part) / len(part)
        assert 0.4 <= share <= 0.6


def test_evaluation_questions_are_worded_apart(
    questions: list[dict[str, object]], kept: tuple[list[QARecord], list[Duplicate]]
) -> None:
    asked = [str(question["question"]) for question in questions]
    known = [record.question for record in kept[0]]
    assert not {normalized(text) for text in asked} & {normalized(text) for text in known}
    sets = question_shingles(asked + known)
    for n, text in enumerate(asked):
        closest = max(sets.jaccard(n, len(asked) + m) for m in range(len(known)))
        assert closest < 0.6, text


def test_evaluation_leaves_most_records_for_training(
    questions: list[dict[str, object]], kept: tuple[list[QARecord], list[Duplicate]]
) -> None:
    moved = {d.id: d.duplicate_of for d in kept[1]}
    named = {moved.get(i, i) for question in questions for i in question["answer_ids"]}  # type: ignore[attr-defined]
    split = split_records(kept[0], SplitConfig(), 17, named)
    assert {record.id for record in split if record.split == "test"} == named
    assert Counter(record.split for record in split)["train"] >= 170


def test_a_wrong_mapping_would_be_noticed() -> None:
    from ragray.errors import DataError

    (file,) = faq_files([FaqSourceConfig(path=str(FAQ / "operations.csv"))])
    with pytest.raises(DataError, match="问题"):
        list(read_rows(file))
