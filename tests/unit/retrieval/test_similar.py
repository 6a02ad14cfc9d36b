"""Past questions: the vector's weights, the nearest, and what may be left out of the search."""

import math
import random

import pytest

from ragray.retrieval.agreement import Reading
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.similar import Nearest, PastQuestions, Wording, cosine, similarity, telling_terms, wording_of

ANY = Reading((), ())


def wording(**weights: float) -> Wording:
    length = math.sqrt(sum(weight**2 for weight in weights.values()))
    return Wording("", "en", {term: weight / length for term, weight in weights.items()}, ANY)


def test_weights_are_tf_idf_by_the_index_and_an_unknown_term_is_the_rarest(index: HybridIndex) -> None:
    vector = wording_of(index, "zzyzx of gpus, not 4").weights
    place = index.corpus.term("gpu")
    assert place is not None
    known = math.log((1 + len(index)) / (1 + index.corpus.frequency(place))) + 1
    unknown = math.log(1 + len(index)) + 1
    length = math.hypot(known, unknown)
    assert vector == pytest.approx({"zzyzx": unknown / length, "gpu": known / length})
    assert wording_of(index, "the of").weights == {}


def test_a_wording_survives_json(index: HybridIndex) -> None:
    one = wording_of(index, "用4个GPU怎么训练 `a b`?")
    assert Wording.from_json(one.to_json()) == one


def test_two_that_do_not_agree_are_not_alike() -> None:
    one, other = wording(a=1), Wording("", "en", {"a": 1.0}, Reading((("fact", "#4"),), ()))
    assert cosine(one.weights, other.weights) == 1.0
    assert (similarity(one, one), similarity(one, other)) == (1.0, 0.0)


def test_the_nearest_that_agrees_is_found() -> None:
    past = PastQuestions()
    past.put("near", wording(a=3, b=4))
    past.put("nearest", Wording("", "en", wording(a=1).weights, Reading((), ("why",))))
    past.put("far", wording(c=1))
    assert past.nearest(wording(a=1), 0.5) == Nearest("near", pytest.approx(0.6))
    assert past.nearest(wording(a=1), 0.61) is None
    assert past.nearest(wording(a=1), 0.5, other_than=frozenset({"near"})) is None
    past.remove("near")
    assert past.nearest(wording(a=1), 0.1) is None
    past.put("far", wording(a=1, c=1))  # in place of the one before
    assert past.nearest(wording(c=1), 0.7) == Nearest("far", pytest.approx(math.sqrt(0.5)))
    assert len(past) == 2


def test_no_question_that_reaches_the_threshold_is_left_out() -> None:
    chance = random.Random(5)
    past, all_of_them = PastQuestions(), []
    for number in range(300):
        one = wording(**{chance.choice("abcdefghij"): chance.uniform(0.5, 3.0) for _ in range(4)})
        past.put(str(number), one)
        all_of_them.append(one)
    for asked in all_of_them[:40]:
        for threshold in (0.3, 0.8, 0.999):
            best = max(cosine(asked.weights, one.weights) for one in all_of_them)
            found = past.nearest(asked, threshold)
            assert found is not None and found.similarity == best


def test_terms_that_cannot_reach_the_threshold_by_themselves_are_not_looked_up() -> None:
    weights = wording(a=3, b=4).weights  # 0.6 and 0.8
    assert telling_terms(weights, 0.7) == ["b"]
    assert telling_terms(weights, 0.5) == ["b", "a"]
    assert telling_terms({}, 0.5) == []
