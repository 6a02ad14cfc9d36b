"""The best documents of a walk are those of scoring all documents, with equal scores in document order."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import corpus_of  # type: ignore[import-not-found]

from ragray.config import Bm25Config, RetrievalConfig
from ragray.errors import DataError
from ragray.retrieval.chunks import BITMAP, BLOCK, count_of, pack, unpack
from ragray.retrieval.corpus import Corpus, ranked

VARIANTS = ["lucene", "okapi", "plus", "l"]


def config(variant: str, sublinear: bool, k1: float = 1.2, b: float = 0.75) -> RetrievalConfig:
    bm25 = Bm25Config.model_validate({"variant": variant, "k1": k1, "b": b})
    return RetrievalConfig(bm25=bm25, sublinear_tf=sublinear)


def check(postings: Corpus, terms: list[str], depth: int, absent: list[int]) -> None:
    """The same scores as by scoring all, in order; documents may change places where they differ by rounding alone."""
    query = postings.query(terms)
    all_scores = postings.score(query)
    candidates = np.setdiff1d(np.flatnonzero(all_scores[1] > 0), absent)
    found = postings.search(query, depth, np.array(absent, np.int64))
    for values, (documents, scores) in zip(all_scores, found, strict=True):
        best = ranked(values, candidates, depth)
        assert len(set(documents.tolist())) == len(documents) == len(best)
        assert scores == pytest.approx(values[best], abs=1e-9)
        assert scores == pytest.approx(values[documents], abs=1e-9)
        assert not set(documents.tolist()) & set(absent)


@pytest.fixture(scope="module")
def corpus() -> list[list[str]]:
    """Three blocks, the last one short; terms from those in half of the documents to those in one."""
    chance = np.random.default_rng(3)
    lengths = np.minimum(chance.lognormal(2.0, 0.8, 2 * BLOCK + 900).astype(int), 120)
    ranks = np.minimum(chance.zipf(1.3, int(lengths.sum())), 30_000)
    repeated = chance.random(len(ranks)) < 0.25
    ranks[1:][repeated[1:]] = ranks[:-1][repeated[1:]]
    terms = np.array([f"t{n}" for n in range(30_001)])[ranks]
    documents = [part.tolist() for part in np.split(terms, np.cumsum(lengths)[:-1])]
    documents[40] = ["t1"] * 200 + ["t5"] * 40
    documents[BLOCK + 7] = documents[BLOCK + 8] = ["t2", "t9", "t9", "pair"]
    return documents


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sublinear", [False, True])
def test_the_best_of_a_large_corpus(corpus: list[list[str]], variant: str, sublinear: bool, tmp_path: Path) -> None:
    settings = config(variant, sublinear)
    postings = corpus_of(corpus, settings, tmp_path)
    assert max(map(postings.frequency, range(1000))) > 3 * BITMAP  # some lists are bitmaps
    chance = np.random.default_rng(4)
    for number in range(40):
        document = corpus[int(chance.integers(len(corpus)))]
        terms = [*document[:8], *(f"t{rank}" for rank in chance.zipf(1.3, 2))]
        absent = sorted({int(n) for n in postings.search(postings.query(terms), 3)[0][0]}) if number % 3 == 0 else []
        check(postings, terms, [1, 10, 100, 2000][number % 4], absent)
    check(postings, ["t5"], 10, [])
    for documents, _ in postings.search(postings.query(["t9", "pair"]), 1000):
        places = [documents.tolist().index(BLOCK + n) for n in (7, 8)]
        assert places[1] == places[0] + 1  # equal documents in their order


@pytest.mark.parametrize("variant", VARIANTS)
def test_documents_that_score_next_to_nothing_are_found(variant: str, tmp_path: Path) -> None:
    documents = [["all"]] * (2 * BITMAP)
    documents[5] = ["all", "rare", "rare"]
    others = [f"other{n}" for n in range(10_000)]
    documents[64:96] = [["all", *others, *others]] * 32
    postings = corpus_of(documents, config(variant, sublinear=False), tmp_path)
    check(postings, ["all", "rare"], len(documents) - 1, [7])


words = st.sampled_from(["ray", "train", "gpu", "集群", "2.60", "a-b"])


@settings(max_examples=150, deadline=None)
@given(
    corpus=st.lists(st.lists(words, max_size=12), min_size=1, max_size=40),
    query=st.lists(words, max_size=6),
    variant=st.sampled_from(VARIANTS),
    depth=st.integers(1, 45),
    k1=st.sampled_from([0.0, 0.5, 2.0]),
    b=st.sampled_from([0.0, 0.75, 1.0]),
    data=st.data(),
)
def test_the_best_of_small_corpora(corpus, query, variant, depth, k1, b, data, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    folder, settings = tmp_path_factory.mktemp("postings"), config(variant, True, k1, b)
    absent = data.draw(st.sets(st.integers(0, len(corpus) - 1), max_size=5))
    check(corpus_of(corpus, settings, folder), query, depth, sorted(absent))


@settings(deadline=None)
@given(st.data())
def test_packed_postings_hold_what_was_put_in(data: st.DataObject) -> None:
    chance = np.random.default_rng(data.draw(st.integers(0, 1000)))
    terms, total = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([5, BLOCK + 5, 2 * BLOCK]))
    held = []
    for _ in range(terms):
        size = min(total, data.draw(st.sampled_from([0, 1, 3, BITMAP - 1, BITMAP + 1, BLOCK])))
        numbers = np.sort(chance.choice(total, size, replace=False))
        held.append((numbers, np.where(chance.random(size) < 0.2, chance.integers(1, 70, size), 1)))
    starts = np.concatenate(([0], np.cumsum([len(numbers) for numbers, _ in held])))
    packed, pointers = pack(starts, *(np.concatenate(parts).astype(np.int64) for parts in zip(*held, strict=True)))
    for term, (numbers, counts) in enumerate(held):
        found, often = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
        assert unpack(packed, pointers[term], pointers[term + 1], found, often) == len(numbers)
        assert dict(zip(found.tolist(), often.tolist(), strict=True)) == dict(
            zip(numbers.tolist(), counts.tolist(), strict=True)
        )
        looked_up = chance.choice(total, 20)
        expected = [int(counts[numbers == number].sum()) for number in looked_up]
        assert [count_of(packed, pointers[term], pointers[term + 1], n) for n in looked_up] == expected


def test_a_term_repeated_too_often_is_an_error() -> None:
    with pytest.raises(DataError, match="passage 3 repeats one term 70,000 times"):
        pack(np.array([0, 1]), np.array([3]), np.array([70_000]))


def test_documents_to_pass_over_are_given_for_each_query(tmp_path: Path) -> None:
    postings = corpus_of([["ray"]], RetrievalConfig(), tmp_path)
    with pytest.raises(ValueError, match="1 lists of documents to pass over for 2 queries"):
        list(postings.search_each(postings.queries([["ray"], ["ray"]]), 1, [np.empty(0, np.int64)]))


def test_scores_that_bm25_plus_makes_equal_stand_in_document_order(tmp_path: Path) -> None:
    """What it adds to all rounds away the last bits, by which the documents below differ."""
    documents = [["a"] * n + ["b"] * (2 * n) for n in range(1, 40)] + [["c"]] * 50
    corpus = corpus_of(documents, config("plus", False, k1=0.5, b=1.0), tmp_path)
    for depth in (39, None):
        (found, scores), _ = next(corpus.search_each(corpus.queries([["a", "b"]]), depth))
        assert len(found) == 39 and len(set(scores.tolist())) < 39
        for score in np.unique(scores):
            assert np.all(np.diff(found[scores == score]) > 0)
