"""Negatives of a small index whose scores can be followed by eye."""

from pathlib import Path

import pytest

from ragray.config import RetrievalConfig
from ragray.config_data import GuardConfig
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.mining import Miner
from ragray.retrieval.writing import build_index
from ragray.schema import Passage, QARecord

TOPICS = ["port", "folder", "token", "engine", "index", "cluster"]
OPEN = GuardConfig(margin=0.0, max_likeness=1.0, covering=1.0)


def record(topic: str, n: int) -> QARecord:
    letter = "abcdef"[n]
    answer = f"The {topic} number {n} is set by option{letter} of the {topic} section, see chapter{letter}."
    return QARecord(f"{topic}-{n}", f"How is {topic} {n} set?", answer, "en", "f", 1, f"g-{topic}-{n // 2}", "train")


RECORDS = [record(topic, n) for topic in TOPICS for n in range(6)]
GROUPS = {r.id: r.group for r in RECORDS}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> HybridIndex:
    folder = tmp_path_factory.mktemp("mined")
    build_index([Passage(r.id, r.question, r.answer, "en", "f", "faq") for r in RECORDS], RetrievalConfig(), folder)
    return HybridIndex.open(folder)


def test_hard_ones_come_first_and_never_from_the_own_group(index: HybridIndex) -> None:
    mined = Miner(index, GROUPS, OPEN, 17).mine(RECORDS, 3)
    assert [row.query_id for row in mined.rows] == [r.id for r in RECORDS]
    for own, row in zip(RECORDS, mined.rows, strict=True):
        hits = [h for h in index.search(own.question, 100) if GROUPS[h.doc_id] != own.group]
        assert sorted(row.negative_ids) == sorted(h.doc_id for h in hits[:3])
        assert row.negative_scores == sorted(row.negative_scores, reverse=True)
        assert {h.doc_id: h.tfidf_score for h in hits}[row.negative_ids[0]] == pytest.approx(row.negative_scores[0])
        assert row.negative_kinds == ["hard"] * 3
    assert mined.refused["hard.same_group"] > 0


def test_topic_ones_lie_near_the_answer_and_outside_the_window(index: HybridIndex) -> None:
    guard = OPEN.model_copy(update={"last_rank": 8})
    own = RECORDS[8]
    row = Miner(index, GROUPS, guard, 17).mine([own], 0, topic=2).rows[0]
    found = {h.doc_id for h in index.search(own.question, 8)}
    near = sorted(index.search(f"{own.question}\n{own.answer}", 200), key=lambda h: -h.tfidf_score)
    expected = [h.doc_id for h in near if h.doc_id not in found and GROUPS[h.doc_id] != own.group][:2]
    assert {i for i, kind in zip(row.negative_ids, row.negative_kinds, strict=True) if kind == "topic"} == set(expected)


def test_random_ones_fill_up_and_follow_seed_and_record_alone(index: HybridIndex) -> None:
    first_only = OPEN.model_copy(update={"last_rank": 1})  # which is the answer itself
    kinds = Miner(index, GROUPS, first_only, 17).mine(RECORDS, 2, 1, 2).rows[5].negative_kinds
    assert len(kinds) == 5 and "hard" not in kinds and kinds.count("random") >= 2
    miner = Miner(index, GROUPS, OPEN, 17)
    one, all_ = miner.mine([RECORDS[7]], 0, 0, 4).rows[0], miner.mine(RECORDS, 0, 0, 4).rows[7]
    assert one == all_ and len(set(one.negative_ids)) == 4
    drawn = {tuple(sorted(row.negative_ids)) for row in miner.mine(RECORDS, 0, 0, 4).rows}
    assert len(drawn) == len(RECORDS)  # each record has its own draw
    scores = [row.negative_scores for row in miner.mine(RECORDS, 0, 0, 12).rows]
    assert all(each == sorted(each, reverse=True) for each in scores) and any(len(set(each)) > 1 for each in scores)
    assert Miner(index, GROUPS, OPEN, 18).mine([RECORDS[7]], 0, 0, 4).rows[0].negative_ids != one.negative_ids


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"margin": 0.6}, "margin"), ({"max_likeness": 0.2}, "likeness"), ({"first_rank": 4}, "rank_window")],
)
def test_no_part_of_the_guard_is_ignored(index: HybridIndex, change: dict[str, float], reason: str) -> None:
    mined = Miner(index, GROUPS, OPEN.model_copy(update=change), 17).mine(RECORDS, 3)
    assert mined.refused[f"hard.{reason}"] > 0
    assert mined.rows != Miner(index, GROUPS, OPEN, 17).mine(RECORDS, 3).rows


def test_an_empty_guard_refuses_nothing_but_the_answer(tmp_path: Path) -> None:
    build_index([Passage("a", "", "only one", "en", "f", "faq")], RetrievalConfig(), tmp_path)
    alone = QARecord("a", "only?", "only one", "en", "f", 1, "g")
    assert Miner(HybridIndex.open(tmp_path), {"a": "g"}, OPEN, 17).mine([alone], 2, 1, 1).rows[0].negative_ids == []
