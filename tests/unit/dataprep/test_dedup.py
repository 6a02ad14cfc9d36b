from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.config_data import DedupConfig
from ragray.dataprep import linking
from ragray.dataprep.dedup import find_duplicates, normalized, remove_duplicates
from ragray.dataprep.linking import Components, buckets_of, link_similar
from ragray.dataprep.minhash import Banding, banding_for
from ragray.dataprep.shingles import ShingleSets, record_shingles
from ragray.dataprep.tokens import Permutations, columns_of, record_hashes
from ragray.schema import QARecord

LONG = "To install it run the first command and then the second one, wait until both are done and start the service"


def record(record_id: str, question: str, answer: str) -> QARecord:
    return QARecord(record_id, question, answer, "en", "f", int(record_id) if record_id.isdigit() else 1)


def test_exact_duplicates_ignore_case_spaces_and_punctuation() -> None:
    rows = [
        record("b", "What is it?", "A thing."),
        record("a", "what  is IT", "a thing"),
        record("c", "What?", "A thing."),
    ]
    kept, duplicates = remove_duplicates(rows, DedupConfig())
    assert [r.id for r in kept] == ["b", "c"]  # the earliest stays, whatever its id
    assert [(d.id, d.duplicate_of, d.method, d.similarity) for d in duplicates] == [("a", "b", "exact", 1.0)]


ROWS = [
    record("1", "How do I install it?", LONG),
    record("2", "How do I install it?", LONG + " now"),
    record("3", "How do I install it", LONG + " now."),  # exact duplicate of 2
    record("4", "How do I remove it?", "Delete its folder, then empty the bin and restart the machine."),
]


def test_near_duplicates_are_verified_and_point_to_the_kept_one() -> None:
    kept, duplicates = remove_duplicates(ROWS, DedupConfig(threshold=0.85))
    assert [r.id for r in kept] == ["1", "4"]
    assert [(d.id, d.duplicate_of, d.method) for d in duplicates] == [("2", "1", "near"), ("3", "1", "near")]
    # 5 + 21 words give 24 trigrams, one more word one more: 24 / 25
    assert duplicates[0].similarity == pytest.approx(24 / 25)
    assert kept[0].also_from == ("f:2", "f:3")
    assert [r.id for r in remove_duplicates(ROWS, DedupConfig(threshold=0.97))[0]] == ["1", "2", "4"]


def test_the_longest_answer_stays_when_asked() -> None:
    kept, duplicates = remove_duplicates(ROWS, DedupConfig(keep="longest"))
    assert [r.id for r in kept] == ["2", "4"]
    assert [(d.id, d.duplicate_of) for d in duplicates] == [("1", "2"), ("3", "2")]


def test_questions_alone_when_asked() -> None:
    rows = [
        record("1", "How do I install it on a server?", "Run pip."),
        record("2", "How do I install it on servers?", "See B"),
    ]
    assert len(remove_duplicates(rows, DedupConfig(by=("question",), threshold=0.75))[0]) == 1
    assert len(remove_duplicates(rows, DedupConfig(by=(), threshold=0.75))[0]) == 2


def mutated(chance: Random, words: list[str], count: int) -> list[str]:
    """`count` words dropped, swapped or added at random places."""
    words = list(words)
    for _ in range(count):
        at = chance.randrange(len(words) - 1)
        kind = chance.randrange(3)
        if kind == 0:
            words.insert(at, f"n{chance.randrange(10**6)}")
        elif kind == 1:
            del words[at]
        else:
            words[at], words[at + 1] = words[at + 1], words[at]
    return words


@pytest.mark.parametrize("piece", [10_000, 37])
def test_planted_duplicates_are_found_whatever_the_blocks(piece: int) -> None:
    """Recall above the threshold + 0.1 and precision, on texts changed at random."""
    chance = Random(5)
    texts, pairs = [], []
    for n in range(600):
        words = [f"w{chance.randrange(3000)}" for _ in range(chance.randrange(30, 90))]
        texts += [" ".join(words), " ".join(mutated(chance, words, chance.randrange(0, 9)))]
        pairs.append((2 * n, 2 * n + 1))
    pieces = [columns_of([""] * len(t), t) for t in (texts[n : n + piece] for n in range(0, len(texts), piece))]
    found = find_duplicates(pieces, DedupConfig(threshold=0.7))
    sets = record_shingles(texts)
    near = [pair for pair in pairs if sets.jaccard(*pair) >= 0.8]
    assert len(near) > 200
    assert np.mean([found.kept[b] == a for a, b in near]) >= 0.97
    for b, a in enumerate(found.kept.tolist()):
        assert a == b or sets.jaccard(a, b) >= 0.7  # pairs alone here: no chains


def test_minhash_agrees_with_jaccard() -> None:
    common = " ".join(f"w{n}" for n in range(100))
    texts = [common, common + " " + " ".join(f"v{n}" for n in range(50))]
    _, _, keys = record_hashes(columns_of(texts), Permutations.draw(2048, 1, 20))
    agree = float(np.mean(keys[:, 0] == keys[:, 1]))
    # standard error sqrt(0.66 * 0.34 / 2048) = 0.0105
    assert agree == pytest.approx(record_shingles(texts).jaccard(0, 1), abs=0.045)


def test_banding_by_hand() -> None:
    # 16 bands of 8: 1 - (1 - 0.85^8)^16 = 0.9938; 14 of 9 would miss 2.5 % at 0.85
    assert banding_for(0.85, 128) == Banding(16, 8)
    assert Banding(16, 8).probability(0.85) == pytest.approx(1 - (1 - 0.85**8) ** 16)
    assert banding_for(0.85, 128).probability(0.95) > 0.9999
    assert banding_for(0.01, 16) == Banding(16, 1)


sets_of_numbers = st.lists(st.sets(st.integers(0, 40), max_size=25), min_size=2, max_size=10)


@settings(max_examples=200, deadline=None)
@given(sets_of_numbers, st.sampled_from([0.2, 0.5, 0.8, 1.0]))
def test_linking_compares_every_pair_of_a_bucket(sets: list[set[int]], threshold: float) -> None:
    """The bitmap only spares work: every pair at the threshold is linked, and nothing else."""
    spread = [np.sort(np.array([n * 0x9E3779B97F4A7C15 % 2**64 for n in each], np.uint64)) for each in sets]
    whole = ShingleSets(np.concatenate(spread), np.cumsum([0, *map(len, spread)]).astype(np.int64))
    links = Components(len(sets))
    link_similar([buckets_of(np.zeros(len(sets), np.uint64))], lambda rows: whole, threshold, links)
    expected = Components(len(sets))
    for i, left in enumerate(sets):
        for j, right in enumerate(sets):
            if left and right and len(left & right) >= threshold * len(left | right) - 1e-12:
                expected.join(np.array([i]), np.array([j]))
    assert links.roots().tolist() == expected.roots().tolist()


def test_candidates_in_several_looks_link_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks of one candidate stop and go on within a bucket, also one too large to be ordered by insertion."""
    chance = np.random.default_rng(8)
    sets = [np.sort(chance.choice(60, chance.integers(5, 30), replace=False)).astype(np.uint64) for _ in range(90)]
    whole = ShingleSets(np.concatenate(sets), np.cumsum([0, *map(len, sets)]).astype(np.int64))
    keys = np.repeat(np.array([3, 4], np.uint64), [80, 10])
    found = []
    for look in (1 << 12, 1):
        monkeypatch.setattr(linking, "_FIRST_LOOK", look)
        monkeypatch.setattr(linking, "_LAST_LOOK", look)
        links = Components(len(sets))
        link_similar([buckets_of(keys)], lambda rows: whole, 0.4, links)
        found.append(links.roots().tolist())
    assert found[0] == found[1]
    assert 10 < len(set(found[0])) < 90


def test_normalized_keeps_what_tells_apart() -> None:
    assert normalized("Ｗhat is C++?") == normalized("what is c++") != normalized("what is c#")
    assert normalized("版本 1.5") != normalized("版本 15")
