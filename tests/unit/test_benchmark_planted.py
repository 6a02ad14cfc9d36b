"""What `benchmarks/planted.py` records as the truth is true."""

import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
from leaks import lines as leak_lines
from planted import LEAK_KINDS, LEVELS, char_grams, edited_to, jaccard, plant_leaks, plant_pairs, token_shingles
from records import make_records
from texts import read_pairs, synthetic_pairs, write_rows

from ragray.config_data import SplitConfig
from ragray.dataprep.shingles import record_shingles


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("a b c d e", "a b c d e", 1.0),
        ("a b c d e", "A, b: C d (e)", 1.0),  # case and punctuation do not count
        ("a b c d e", "a b c x e", 1 / 5),  # abc | bcd cde | bcx cxe
        ("a b c d e", "a b c d e f", 3 / 4),  # one shingle more
        ("a b c d e", "b c d e", 2 / 3),  # one less
        ("重启服务器", "重启服务吧", 2 / 4),  # 重启服 启服务 | 务器.. | 务吧..
        ("c++", "c#", 0.0),
    ],
)
def test_jaccard_by_hand(left: str, right: str, expected: float) -> None:
    assert jaccard(token_shingles(left), token_shingles(right)) == pytest.approx(expected)


def test_jaccard_of_characters_by_hand() -> None:
    assert char_grams("abcdefg") == {"abcde", "bcdef", "cdefg"}
    assert jaccard(char_grams("abcdefg"), char_grams("abcdefx")) == pytest.approx(2 / 4)
    assert char_grams("abc") == {"abc"}


def test_planted_pairs_are_as_like_as_recorded() -> None:
    pairs = list(plant_pairs(synthetic_pairs(600, 5), 3, 5))
    assert Counter((p.lang, p.level) for p in pairs) == {(lang, level): 3 for lang in ("zh", "en") for level in LEVELS}
    assert len({pair.base for pair in pairs}) == len(pairs), "each pair has a base text of its own"
    sets = record_shingles(text for pair in pairs for text in (pair.base, pair.copy))
    for n, pair in enumerate(pairs):
        assert sets.jaccard(2 * n, 2 * n + 1) == pytest.approx(pair.jaccard)  # ragray's own sets say the same
        assert jaccard(char_grams(pair.base), char_grams(pair.copy)) == pair.jaccard_chars
        assert abs(pair.jaccard - pair.level) <= 0.02
    assert pairs == list(plant_pairs(synthetic_pairs(600, 5), 3, 5))


def test_a_text_too_short_for_a_level_is_refused() -> None:
    # 4 shingles: the least change leaves 3 of 4
    assert edited_to("a b c d e f", 0.95, ["x"], Random(1)) is None


def test_planted_leaks_are_what_they_are_called() -> None:
    train, test, leaks = plant_leaks(synthetic_pairs(900, 5), 400, 20, 5)
    assert (len(train), len(test)) == (400, 160)
    assert Counter(leak.kind for leak in leaks) == dict.fromkeys(LEAK_KINDS, 20)
    by_id = {row["id"]: row for row in (*train, *test)}
    for leak in leaks:
        of_train, of_test = by_id[leak.train_id], by_id[leak.test_id]
        left, right = str(of_train["question"]), str(of_test["question"])
        assert jaccard(token_shingles(left), token_shingles(right)) == leak.jaccard
        assert leak.same_answer == (of_train["answer"] == of_test["answer"]) == (leak.kind == "same_answer")
        if leak.kind == "exact":
            assert left.lower() == right.lower()
        elif leak.kind == "reordered":
            assert Counter(re.findall(r"\w", left)) == Counter(re.findall(r"\w", right))
        elif leak.kind == "near":
            assert left != right
    leaking = {leak.test_id for leak in leaks}
    questions, answers = ({row[part] for row in train} for part in ("question", "answer"))
    clean = [row for row in test if row["id"] not in leaking]
    assert len(clean) == 80
    assert not any(row["question"] in questions or row["answer"] in answers for row in clean)


def test_records_repeat_by_seed_and_have_their_shares_of_copies(tmp_path: Path) -> None:
    pairs = synthetic_pairs(500, 2)
    rows = list(make_records(pairs, 4000, 3))
    assert rows == list(make_records(pairs, 4000, 3)) != list(make_records(pairs, 4000, 4))
    texts = Counter((row["question"], row["answer"]) for row in rows)
    assert 0.07 < 1 - len(texts) / len(rows) < 0.13  # a tenth is copied
    assert 0.02 < sum(str(row["answer"]).startswith("<p>") for row in rows) / len(rows) < 0.07
    for name in ("r.jsonl", "r.parquet"):
        write_rows(rows, tmp_path / name)
        assert read_pairs(tmp_path / name, 100) == [(row["question"], row["answer"]) for row in rows[:100]]
    assert json.loads((tmp_path / "r.jsonl").read_text().splitlines()[7]) == rows[7]


def test_the_audit_finds_each_planted_leak_above_the_threshold(tmp_path: Path) -> None:
    train, test, leaks = plant_leaks(synthetic_pairs(900, 5), 400, 20, 5)
    for name, rows in (("train", train), ("test", test), ("leaks", [asdict(leak) for leak in leaks])):
        write_rows(rows, tmp_path / f"{name}.jsonl")
    counts = {}
    for line in leak_lines(tmp_path, SplitConfig()):
        kind, planted, above, found, _, torn = [cell.strip() for cell in line.strip("|").split("|")]
        counts[kind] = (planted, above, found, torn)
    assert counts["exact"] == ("20", "20", "20", "0")
    for kind in LEAK_KINDS:
        assert counts[kind][1] == counts[kind][2]
    assert counts["same_answer"][3] == "0"
