import dataclasses
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.config_data import SplitConfig
from ragray.dataprep.linking import Components
from ragray.dataprep.shingles import Texts, question_shingles
from ragray.dataprep.split import TEST, TRAIN, SplitRecords, check_no_leak, link_questions, split_records
from ragray.dataprep.tokens import columns_of, text_hashes
from ragray.errors import WorkError
from ragray.schema import QARecord, stable_digest


def record(record_id: str, question: str, answer: str, lang: str = "en", group: str = "") -> QARecord:
    return QARecord(record_id, question, answer, lang, "f", 1, group)


def groups_of(records: list[QARecord]) -> list[set[str]]:
    groups: dict[str, set[str]] = {}
    for r in split_records(records, SplitConfig(), 17, None):
        groups.setdefault(r.group, set()).add(r.id)
    return sorted(groups.values(), key=sorted)


def test_groups_by_answer_question_and_given_group() -> None:
    rows = [
        record("d", "How do I install the package?", "Run pip."),
        record("b", "How do I install the packages?", "See the guide."),  # near-duplicate question of d
        record("c", "Any manual around?", "see the guide"),  # same answer as b
        record("a", "Where are the logs?", "In the folder.", group="thread 7"),
        record("e", "What is it?", "A thing.", group="thread 7"),
        record("f", "Who made it?", "People."),
    ]
    assert groups_of(rows) == [{"a", "e"}, {"b", "c", "d"}, {"f"}]


texts = st.text("ab装问", min_size=1, max_size=6)
many = st.lists(st.tuples(texts, texts, st.sampled_from(["zh", "en"])), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(many, st.integers(0, 5), st.booleans())
def test_splits_do_not_leak(rows: list[tuple[str, str, str]], seed: int, given_questions: bool) -> None:
    records = [record(f"r{n:02}", *row) for n, row in enumerate(rows)]
    held_out = {"r00"} if given_questions else None
    done = split_records(records, SplitConfig(valid=0.2, test=0.2), seed, held_out)
    sets = question_shingles(r.question for r in done)
    for i, left in enumerate(done):
        for j, right in enumerate(done[:i]):
            if sets.jaccard(i, j) >= 0.7 and len(sets.of(i)) and len(sets.of(j)):
                assert left.group == right.group and left.split == right.split
    assert [r.id for r in done] == [r.id for r in records]
    if given_questions:
        assert {r.group for r in done if r.split == "test"} == {done[0].group}
    shuffled = split_records(records[::-1], SplitConfig(valid=0.2, test=0.2), seed, held_out)
    assert shuffled[::-1] == done  # the order of the input does not matter


questions = st.lists(st.text("ab 安装", min_size=1, max_size=12), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(questions, st.sampled_from([0.3, 0.5, 0.7, 1.0]), st.integers(1, 12))
def test_no_pair_of_similar_questions_is_missed(asked: list[str], threshold: float, piece: int) -> None:
    sets = question_shingles(asked)
    pieces = [columns_of(asked[n : n + piece]) for n in range(0, len(asked), piece)]
    links = Components(len(asked))
    link_questions(Texts(pieces), np.arange(len(asked)), threshold, links)
    roots = links.roots()
    for i in range(len(asked)):
        for j in range(i):
            if len(sets.of(i)) and sets.jaccard(i, j) >= threshold:
                assert roots[i] == roots[j]


def test_shares_by_stratum_and_seed() -> None:
    words = [f"{stable_digest(n):020}" for n in range(400)]
    records = [record(f"r{n}", w, "answer " + w, "zh" if n < 100 else "en") for n, w in enumerate(words)]
    done = split_records(records, SplitConfig(valid=0.1, test=0.2), 17, None)
    count = Counter((r.lang, r.split) for r in done)
    assert count == {
        ("zh", "test"): 20, ("zh", "valid"): 10, ("zh", "train"): 70,
        ("en", "test"): 60, ("en", "valid"): 30, ("en", "train"): 210,
    }  # fmt: skip
    other = split_records(records, SplitConfig(valid=0.1, test=0.2), 18, None)
    assert [r.split for r in other] != [r.split for r in done]


def test_shares_hold_over_many_small_sources() -> None:
    words = [f"{stable_digest(n):020}" for n in range(120)]
    records = [dataclasses.replace(record(f"r{n}", w, "a " + w), source=f"s{n // 4}") for n, w in enumerate(words)]
    count = Counter(r.split for r in split_records(records, SplitConfig(valid=0.1, test=0.1), 17, None))
    assert count == {"test": 12, "valid": 12, "train": 96}


def test_a_straddling_answer_is_an_error() -> None:
    answers = text_hashes(pa.array(["This.", "this"]))
    records = SplitRecords(pa.array(["1", "2"]), pa.array(["", ""]), np.array([1, 2], np.uint64), answers)
    with pytest.raises(WorkError, match=r"1 \(train\) and 2 \(test\) share their answer"):
        check_no_leak(records, np.array([0, 1]), np.array([TRAIN, TEST], np.int8))
