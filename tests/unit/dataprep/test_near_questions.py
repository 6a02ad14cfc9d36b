"""What stands apart is decided by the true Jaccard similarity, not by which keys happen to be shared."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.dataprep.near_questions import NearQuestions
from ragray.dataprep.shingles import question_shingles
from ragray.schema import EvalQuestion, QARecord

WORDS = st.lists(
    st.sampled_from(["how", "do", "i", "set", "the", "port", "of", "folder", "engine", "token"]), min_size=1, max_size=6
)


def record(question: str, group: str) -> QARecord:
    return QARecord(question, question, "a", "en", "f", 1, group)


def test_own_group_others_and_held_out() -> None:
    known = [record("How do I set the port of the server?", "g"), record("怎样设置服务的端口？", "h")]
    near = NearQuestions(known, [EvalQuestion("q", "Where are the logs of the workers kept?", "en")], 0.7)
    asked = [
        record("How do I set the port of a server?", "g"),
        record("How do I set the port of a server?", "x"),
        record("Where are the logs of the worker kept?", "g"),
        record("Something else entirely", "x"),
        record("", "x"),
    ]
    assert near.apart(asked) == [True, False, False, True, True]
    assert NearQuestions([], [], 0.7).apart(asked) == [True] * 5 and near.apart([]) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, max_size=8), WORDS, st.sampled_from([0.3, 0.5, 0.7, 1.0]))
def test_no_near_one_is_missed(known: list[list[str]], asked: list[str], threshold: float) -> None:
    texts = [" ".join(words) for words in known]
    sets = question_shingles([*texts, " ".join(asked)])
    near = [
        len(np.intersect1d(sets.of(n), sets.of(len(texts))))
        >= threshold * len(np.union1d(sets.of(n), sets.of(len(texts))))
        and len(sets.of(n)) > 0
        for n in range(len(texts))
    ]
    found = NearQuestions([record(text, "g") for text in texts], [], threshold)
    assert found.apart([record(" ".join(asked), "x")]) == [not any(near)]
