"""The weight of titles in a search for settings is that of an index."""

import pytest

from ragray.config import RetrievalConfig
from ragray.evaluation.collections import Collection, read_collection
from ragray.evaluation.search_quality import evaluate_search
from ragray.evaluation.tuning_values import Judged, values_of
from ragray.schema import Passage, table_of


@pytest.fixture
def collection(beir) -> Collection:
    """A document whose title holds the word, one that repeats it, and a short one."""
    (beir / "corpus.jsonl").write_text(
        '{"id": "a", "title": "zebra", "text": "a lion in the grass by the river"}\n'
        '{"id": "b", "title": "river", "text": "zebra zebra zebra zebra zebra zebra"}\n'
        '{"id": "c", "title": "", "text": "zebra"}\n'
    )
    (beir / "queries.jsonl").write_text('{"id": "q", "text": "zebra"}\n')
    (beir / "qrels" / "test.tsv").write_text("q\ta\t1\n")
    return read_collection(beir)


def test_values_of_each_weight_are_those_of_an_index(collection):
    judged, found = Judged(collection.queries, collection.qrels, "mrr@10"), []
    for weight in (0, 1, 10):
        one = RetrievalConfig(title_weight=weight)
        values = values_of(table_of(Passage, collection.documents), judged, [one], "bm25")
        assert values.mean() == pytest.approx(evaluate_search(collection, one).metrics["bm25"]["mrr@10"])
        found.append(round(float(values.mean()), 3))
    assert found[0] == 0.0 and len(set(found)) == 3
