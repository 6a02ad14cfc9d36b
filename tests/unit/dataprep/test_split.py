import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.config import SplitConfig
from ragray.dataprep.shingles import question_shingles
from ragray.dataprep.split import check_no_leak, group_records, split_records, worst_overlap
from ragray.errors import WorkError
from ragray.schema import QARecord, stable_digest


def record(record_id: str, question: str, answer: str, lang: str = "en") -> QARecord:
    return QARecord(record_id, question, answer, lang, "f", 1)


def test_groups_by_answer_and_by_question() -> None:
    rows = [
        record("d", "How do I install the package?", "Run pip."),
        record("b", "How do I install the packages?", "See the guide."),  # near-duplicate question of d
        record("c", "Any manual around?", "see the guide"),  # same answer as b
        record("a", "Where are the logs?", "In the folder."),
    ]
    assert group_records(rows, 0.7) == ["b", "b", "b", "a"]


texts = st.text("ab装问", min_size=1, max_size=6)
many = st.lists(st.tuples(texts, texts, st.sampled_from(["zh", "en"])), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(many, st.integers(0, 5), st.booleans())
def test_splits_do_not_leak(rows: list[tuple[str, str, str]], seed: int, given_questions: bool) -> None:
    records = [record(f"r{n:02}", *row) for n, row in enumerate(rows)]
    held_out = {"r00"} if given_questions else None
    done = split_records(records, SplitConfig(valid=0.2, test=0.2), seed, held_out)
    check_no_leak(done)
    assert worst_overlap(done)[0] < 0.7
    assert [r.id for r in done] == [r.id for r in records]
    if given_questions:
        assert {r.group for r in done if r.split == "test"} == {done[0].group}
    shuffled = split_records(records[::-1], SplitConfig(valid=0.2, test=0.2), seed, held_out)
    assert shuffled[::-1] == done  # the order of the input does not matter


def test_shares_by_language_and_seed() -> None:
    words = [f"{stable_digest(n):020}" for n in range(400)]
    records = [record(f"r{n}", w, "answer " + w, "zh" if n < 100 else "en") for n, w in enumerate(words)]
    assert len(set(group_records(records, 0.7))) == 400
    done = split_records(records, SplitConfig(valid=0.1, test=0.2), 17, None)
    count = {
        (lang, s): sum(r.lang == lang and r.split == s for r in done)
        for lang in ("zh", "en")
        for s in ("test", "valid")
    }
    assert count == {("zh", "test"): 20, ("zh", "valid"): 10, ("en", "test"): 60, ("en", "valid"): 30}
    other = split_records(records, SplitConfig(valid=0.1, test=0.2), 18, None)
    assert [r.split for r in other] != [r.split for r in done]


def test_a_straddling_group_is_an_error() -> None:
    one = dataclasses.replace(record("1", "What?", "This."), group="1", split="train")
    two = dataclasses.replace(record("2", "Who?", "this"), group="2", split="test")
    with pytest.raises(WorkError, match="share their answer"):
        check_no_leak([one, two])


def test_worst_overlap_names_the_pair() -> None:
    rows = [record("1", "abcde", "x"), record("2", "abcdf", "y"), record("3", "zzzzz", "z")]
    done = [dataclasses.replace(r, split=s) for r, s in zip(rows, ("test", "train", "train"), strict=True)]
    assert worst_overlap(done) == (question_shingles(["abcde", "abcdf"]).jaccard(0, 1), "1", "2")
