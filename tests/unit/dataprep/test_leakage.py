import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfTransformer

from ragray.config_data import SplitConfig
from ragray.dataprep import leakage, shingles
from ragray.dataprep.leakage import audit_split
from ragray.dataprep.shingles import Texts
from ragray.dataprep.tokens import QUESTION, columns_of, text_hashes


def audit(test: list[str], train: list[str], pieces: int = 1, **settings: float):
    columns = columns_of([*test, *train])
    numbers = np.arange(len(test) + len(train))
    parts = np.array_split(numbers, pieces)
    texts = Texts([(columns[0].take(part), columns[1].take(part)) for part in parts])
    return audit_split(
        texts, text_hashes(columns[0]), numbers[: len(test)], numbers[len(test) :], SplitConfig(**settings)
    )


def test_every_planted_leak_is_found() -> None:
    train = ["How do I reset my password?", "怎么修改端口号", "Where are the log files kept?"]
    test = ["how do i RESET my password", "怎么修改端口号呢", "Where are log files kept?", "What does it cost?"]
    found = audit(test, train)
    assert found.leaked.tolist() == [True, True, True, False]
    assert found.leaked_share == 3 / 4
    assert found.jaccard[0] == 1.0
    assert found.jaccard[1] == pytest.approx(6 / 7)  # bigrams: six, and one more
    assert [(test[i], train[j - 4]) for i, j, _, _ in found.worst(3)] == list(zip(test, train, strict=False))
    assert sum(found.histogram()["jaccard"]) == 4


def test_reordered_words_are_seen_by_the_cosine() -> None:
    found = audit(["install ragray on windows today"], ["today install ragray on windows"], leak_cosine=0.7)
    assert found.jaccard[0] < 0.8 <= found.cosine[0] + 0.1
    assert found.leaked[0]


def test_cosine_by_hand() -> None:
    # abcd bcde against abcd bcdf and abcd: in 2, 0, 1 training texts; idf ln(3/3)+1, ln(3/1)+1, ln(3/2)+1
    found = audit(["abcde"], ["abcdf", "abcd"])
    seen, once, unseen = 1.0, math.log(3 / 2) + 1, math.log(3) + 1
    expected = seen**2 / (math.hypot(seen, unseen) * math.hypot(seen, once))
    second = seen**2 / (math.hypot(seen, unseen) * seen)
    assert found.cosine[0] == pytest.approx(max(expected, second))


def test_many_texts_with_frequent_words() -> None:
    """What the search skips in long lists cannot be nearest: the same as comparing with every training text."""
    chance = np.random.default_rng(4)
    words = ["".join(chance.choice(list("abcdefghij"), 4)) for _ in range(300)]
    frequency = 1 / np.arange(1, 301)
    drawn = [chance.choice(words, chance.integers(3, 9), p=frequency / frequency.sum()) for _ in range(1100)]
    test, train = ([" ".join(part) for part in half] for half in (drawn[:100], drawn[100:]))
    found = audit(test, train)
    sets = Texts([columns_of([*test, *train])]).sets(QUESTION, np.arange(1100))
    held = [{int(h) for h in sets.of(n)} for n in range(1100)]
    terms = {term: n for n, term in enumerate(sorted(set().union(*held)))}
    matrix = np.zeros((1100, len(terms)))
    for n, each in enumerate(held):
        matrix[n, [terms[shingle] for shingle in each]] = 1
    weigh = TfidfTransformer(smooth_idf=True).fit(matrix[100:])
    cosines = (weigh.transform(matrix[:100]) @ weigh.transform(matrix[100:]).T).toarray()
    assert found.cosine == pytest.approx(cosines.max(axis=1), abs=1e-9)
    near = [[len(held[n] & held[m]) / len(held[n] | held[m]) for m in range(100, 1100)] for n in range(100)]
    assert found.jaccard == pytest.approx(np.max(near, axis=1))
    assert found.jaccard_of.tolist() == [100 + row.index(max(row)) for row in near]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab 安", min_size=1, max_size=9), min_size=2, max_size=9))
def test_nearest_is_the_maximum_as_scikit_learn_sees_it(texts: list[str]) -> None:
    half = len(texts) // 2
    test, train = texts[:half], texts[half:]
    sets = Texts([columns_of(texts)]).sets(QUESTION, np.arange(len(texts)))
    terms = sorted({int(h) for h in sets.hashes})
    if not terms:
        return
    matrix = np.array([[float(t in {int(h) for h in sets.of(n)}) for t in terms] for n in range(len(texts))])
    weigh = TfidfTransformer(smooth_idf=True).fit(matrix[half:])
    cosines = weigh.transform(matrix[:half]) @ weigh.transform(matrix[half:]).T
    found = audit(test, train)
    equal = np.isin(text_hashes(columns_of(test)[0]), text_hashes(columns_of(train)[0]))
    for n in range(half):
        assert found.cosine[n] == pytest.approx(cosines[[n]].toarray().max(), abs=1e-9)
        if len(sets.of(n)) and not equal[n]:
            near = max(sets.jaccard(n, half + m) if len(sets.of(half + m)) else 0.0 for m in range(len(train)))
            assert found.jaccard[n] == pytest.approx(near)


@pytest.mark.parametrize("size", [1, 40])
def test_a_sample_loses_no_leak_and_none_of_the_worst_pairs(size: int) -> None:
    chance = np.random.default_rng(5)
    words = ["".join(chance.choice(list("abcdefghij"), 5)) for _ in range(200)]
    drawn = [chance.choice(words, 7) for _ in range(600)]
    near = [[*text[:6], "other"] for text in drawn[300:330]]  # Jaccard 6/8: a leak, and never equal
    far = [[*text[:3], "one", "or", "two"] for text in drawn[330:360]]
    test, train = ([" ".join(text) for text in half] for half in ([*near, *far, *drawn[:240]], drawn[300:]))
    full, found = audit(test, train), audit(test, train, audit_sample=size)
    assert full.sampled.all()
    assert found.sampled.sum() == size
    assert found.leaked.tolist() == full.leaked.tolist() == [True] * 30 + [False] * 270
    assert found.worst() == full.worst()
    assert found.jaccard[found.sampled].tolist() == full.jaccard[found.sampled].tolist()
    assert found.cosine_of[found.sampled].tolist() == full.cosine_of[found.sampled].tolist()
    assert [sum(bins) for bins in found.histogram().values()] == [size, size]


@pytest.mark.parametrize("size", [1, 40, 400])
def test_parts_of_the_questions_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(6)
    words = ["".join(chance.choice(list("abcdefghij"), 5)) for _ in range(60)]
    drawn = [" ".join(chance.choice(words, 6)) for _ in range(500)]
    whole = audit(drawn[:120], drawn[120:], audit_sample=size)
    monkeypatch.setattr(leakage, "_SLICE", 50)
    monkeypatch.setattr(shingles, "_FEW", 0)
    found = audit(drawn[:120], drawn[120:], pieces=7, audit_sample=size)
    assert whole.worst() == found.worst()
    for name in ("sampled", "jaccard", "jaccard_of", "cosine", "cosine_of", "leaked"):
        assert getattr(found, name).tolist() == getattr(whole, name).tolist()


def test_the_sample_follows_the_questions_not_their_order() -> None:
    test = [f"question number {n}" for n in range(50)]
    train = ["another question"]
    first, second = (audit(asked, train, audit_sample=7) for asked in (test, test[::-1]))
    assert first.sampled.tolist() == second.sampled.tolist()[::-1]
