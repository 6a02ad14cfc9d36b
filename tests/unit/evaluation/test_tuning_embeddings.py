"""What `ragray tune` does with embeddings: nothing."""

import numpy as np

from ragray.config import DenseConfig, FusionWeights, RerankerConfig, RetrievalConfig
from ragray.evaluation import tuning_prior
from ragray.evaluation.collections import read_collection
from ragray.evaluation.tuning import fusion_settings
from ragray.evaluation.tuning_values import Judged, values_of
from ragray.schema import Passage, table_of


def test_they_take_no_part(beir):
    collection, plain = read_collection(beir), RetrievalConfig()
    documents, asked = table_of(Passage, collection.documents), Judged(collection.queries, collection.qrels, "map")
    dense = plain.model_copy(update={"dense": DenseConfig(model="absent"), "reranker": RerankerConfig(model="absent")})
    for retriever in ("bm25", "hybrid"):
        values = [values_of(documents, asked, [one], retriever) for one in (plain, dense)]
        assert np.array_equal(*values) and values[0].any()


def test_they_take_no_part_in_learning_a_prior(beir):
    collection, plain = read_collection(beir), RetrievalConfig()
    documents, asked = table_of(Passage, collection.documents), Judged(collection.queries, collection.qrels, "map")
    dense = plain.model_copy(update={"dense": DenseConfig(model="absent"), "reranker": RerankerConfig(model="absent")})
    left, right = (tuning_prior._fused(documents, asked, one) for one in (plain, dense))
    assert [one.documents.tolist() for one in left] == [one.documents.tolist() for one in right]


def test_weights_of_lists_that_are_not_searched_stay():
    plain = RetrievalConfig()
    weighed = plain.model_copy(update={"fusion_weights": FusionWeights(bm25=1.0, tfidf=1.0, dense=2.5)})
    assert {one.fusion_weights.dense for one in fusion_settings(weighed)} == {2.5}
    assert {one.fusion_weights.dense for one in fusion_settings(plain)} == {None}
