import numpy as np
import pytest

from ragray.config import DedupConfig
from ragray.dataprep.dedup import band_keys, normalized, remove_duplicates, rows_of_band, signatures
from ragray.dataprep.shingles import record_shingles
from ragray.schema import QARecord

LONG = "To install it run the first command and then the second one, wait until both are done and start the service"


def record(record_id: str, question: str, answer: str) -> QARecord:
    return QARecord(record_id, question, answer, "en", "f", 1)


def test_exact_duplicates_ignore_case_spaces_and_final_stops() -> None:
    rows = [
        record("b", "What is it?", "A thing."),
        record("a", "what  is IT", "a thing"),
        record("c", "What?", "A thing."),
    ]
    kept, duplicates = remove_duplicates(rows, DedupConfig())
    assert [r.id for r in kept] == ["b", "c"]  # the earliest stays, whatever its id
    assert [(d.id, d.duplicate_of, d.method, d.similarity) for d in duplicates] == [("a", "b", "exact", 1.0)]


def test_near_duplicates_are_verified_and_point_to_the_kept_one() -> None:
    rows = [
        record("1", "How do I install it?", LONG),
        record("2", "How do I install it?", LONG + " now"),
        record("3", "How do I install it", LONG + " now."),  # exact duplicate of 2
        record("4", "How do I remove it?", "Delete its folder, then empty the bin and restart the machine."),
    ]
    kept, duplicates = remove_duplicates(rows, DedupConfig(threshold=0.85))
    assert [r.id for r in kept] == ["1", "4"]
    assert [(d.id, d.duplicate_of, d.method) for d in duplicates] == [("2", "1", "near"), ("3", "1", "exact")]
    # 5 + 21 words give 24 trigrams, one more word one more: 24 / 25
    assert duplicates[0].similarity == pytest.approx(24 / 25)
    assert remove_duplicates(rows, DedupConfig(threshold=0.97))[0] == [rows[0], rows[1], rows[3]]


def test_result_does_not_depend_on_other_records() -> None:
    rows = [record("1", "How do I install it?", LONG), record("2", "How do I install it?", LONG + " now")]
    others = [record(f"x{n}", f"Question {n}?", f"Answer {n * 7919} {n}") for n in range(50)]
    assert [d.id for d in remove_duplicates([*others, *rows], DedupConfig())[1]] == ["2"]


def test_minhash_agrees_with_jaccard() -> None:
    common = " ".join(f"w{n}" for n in range(100))
    sets = record_shingles([common, common + " " + " ".join(f"v{n}" for n in range(50))])
    signature = signatures(sets, 2048)
    agree = float(np.mean(signature[0] == signature[1]))
    # standard error sqrt(0.66 * 0.34 / 2048) = 0.0105
    assert agree == pytest.approx(sets.jaccard(0, 1), abs=0.045)
    assert len(band_keys(signature, 0.85)) == 2048 // rows_of_band(2048, 0.85)


def test_rows_of_band_by_hand() -> None:
    # 18 bands of 7: (1 - 0.85^7)^18 = 0.00095; 16 of 8: (1 - 0.85^8)^16 = 0.0062
    assert rows_of_band(128, 0.85) == 7
    assert rows_of_band(1, 0.5) == 1


def test_normalized_keeps_what_tells_apart() -> None:
    assert normalized("Ｗhat is C++?") == normalized("what is c++") != normalized("what is c#")
    assert normalized("版本 1.5") != normalized("版本 15")
