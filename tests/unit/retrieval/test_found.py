"""What lists of some depth found is scored as whole rankings score it."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import corpus_of, passage  # type: ignore[import-not-found]

from ragray.config import Bm25Config, RetrievalConfig
from ragray.retrieval.chunks import BLOCK
from ragray.retrieval.corpus import Corpus
from ragray.retrieval.found import found_each
from ragray.retrieval.fusion import Fused, fuse
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.store import IndexStore
from ragray.retrieval.writing import build_index

VARIANTS = ["lucene", "plus", "l"]  # okapi gives negative scores in small corpora: the least depends on the depth


def config(variant: str = "lucene", **fields: object) -> RetrievalConfig:
    return RetrievalConfig.model_validate({"bm25": {"variant": variant}, **fields})


def fused(corpus: Corpus, queries: list[list[str]], depth: int | None, of: RetrievalConfig) -> list[Fused]:
    asked = corpus.queries(queries)
    return [fuse(of, one) for one in found_each(corpus, asked, corpus.search_each(asked, depth))]


def check(corpus: Corpus, queries: list[list[str]], depth: int, of: RetrievalConfig) -> int:
    """The scores of lists to a depth are those of whole rankings, for what the lists hold. How many lay beyond one."""
    beyond = 0
    for some, every in zip(fused(corpus, queries, depth, of), fused(corpus, queries, None, of), strict=True):
        kept = every.at(np.flatnonzero(np.isin(every.documents, some.documents)))
        assert some.scores == pytest.approx(kept.scores, abs=1e-12)
        by_document, other = some.at(np.argsort(some.documents)), kept.at(np.argsort(kept.documents))
        assert np.array_equal(by_document.documents, other.documents)
        assert by_document.of_lists == pytest.approx(other.of_lists, abs=1e-12)
        assert by_document.scores == pytest.approx(other.scores, abs=1e-12)
        assert np.array_equal(by_document.ranks, np.where(other.ranks <= depth, other.ranks, 0))
        for score in np.unique(some.scores):
            assert np.all(np.diff(some.documents[some.scores == score]) > 0)
        beyond += int((some.ranks == 0).sum())
    return beyond


@pytest.mark.parametrize("variant", VARIANTS)
def test_lists_of_100_score_as_whole_rankings(variant: str, tmp_path: Path) -> None:
    """In more than one block of documents, with equal ones among them."""
    chance = np.random.default_rng(5)
    ranks = [np.minimum(chance.zipf(1.4, size), 400) for size in chance.integers(1, 40, BLOCK + 2000)]
    documents = [[f"t{n}" for n in one.tolist()] for one in ranks]
    documents[BLOCK + 5 : BLOCK + 300] = [["t1", "t2", "t2", f"t{n % 3}"] for n in range(295)]
    corpus = corpus_of(documents, config(variant), tmp_path)
    queries = [[f"t{n}" for n in chance.integers(1, 30, 5)] for _ in range(30)] + [[], ["t1", "t2"], ["absent"]]
    assert check(corpus, queries, 100, config(variant)) > 1000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=12), min_size=1, max_size=30).filter(any),
    st.lists(st.lists(st.sampled_from([*"abcdef", "unknown"]), max_size=6), min_size=1, max_size=4),
    st.integers(1, 12),
    st.sampled_from(VARIANTS),
)
def test_lists_of_any_depth_score_as_whole_rankings(
    documents: list[list[str]], queries: list[list[str]], depth: int, variant: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(corpus_of(documents, config(variant), Path(folder)), queries, depth, config(variant))


def test_scores_of_chosen_documents_are_those_of_all(tmp_path: Path) -> None:
    """Of several segments, in any order, and with a document that is gone."""
    words = ["ray", "train", "gpu", "serve"]
    (tmp_path / "built").mkdir()
    made = [passage(f"d{n}", words[n % 4], " ".join(words[: n % 5])) for n in range(20)]
    build_index(made, RetrievalConfig(bm25=Bm25Config(variant="plus")), tmp_path / "built")
    store = IndexStore.create(tmp_path / "store", tmp_path / "built")
    store.update([passage(f"e{n}", "train", " ".join(words[n % 3 :])) for n in range(9)], ["d3"])
    index = HybridIndex.open(store.root)
    corpus = index.corpus
    assert len(corpus.parts) == 2
    queries = corpus.queries([index.terms("train gpu"), [], index.terms("serve ray unknown")])
    chosen = [np.array([25, 0, 7, 20, 19]), np.array([], np.int64), np.array([28, 1])]
    for number, (documents, found) in enumerate(zip(chosen, corpus.scores_of_each(queries, chosen), strict=True)):
        assert found == pytest.approx(np.array(corpus.score(queries[number]))[:, documents])
    assert corpus.doc_ids([20, 0]) == ["e0", "d0"]


def test_a_hit_beyond_a_list_has_its_score_and_no_rank(tmp_path: Path) -> None:
    filler = [passage(f"d{n}", "", "word " * (1 + n % 5) + "filler " * (37 * n % 151)) for n in range(150)]
    build_index(filler, RetrievalConfig(fusion_depth=3), tmp_path)
    index = HybridIndex.open(tmp_path)
    hits = index.search("word filler", 6)
    bm25, cosine = index.corpus.score(index.query_terms("word filler"))
    assert any(hit.bm25_rank is None for hit in hits) and any(hit.tfidf_rank is None for hit in hits)
    for hit in hits:
        number = index.number(hit.doc_id)
        assert (hit.bm25_score, hit.tfidf_score) == pytest.approx((bm25[number], cosine[number]))
        assert hit.score == pytest.approx(0.7 * bm25[number] / bm25.max() + 0.3 * cosine[number] / cosine.max())
