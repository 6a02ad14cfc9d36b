"""An index whose segments are held by actors answers as the index itself."""

import random
from pathlib import Path

import pytest

from ragray.config import FeedbackConfig, PriorConfig, RetrievalConfig
from ragray.distributed.shards import open_sharded
from ragray.errors import ArtifactError
from ragray.retrieval.prior import Prior
from ragray.retrieval.store import IndexStore
from ragray.retrieval.writing import build_index
from ragray.schema import Passage

WORDS = [f"word{number}" for number in range(80)] + ["集群", "部署"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> IndexStore:
    """Four segments, with replaced and deleted passages."""
    folder = tmp_path_factory.mktemp("live")
    chance = random.Random(3)

    def drawn(doc_id: str) -> Passage:
        words = [WORDS[min(int(chance.paretovariate(0.7)) - 1, 81)] for _ in range(chance.randrange(1, 20))]
        return Passage(doc_id, words[0], " ".join(words), "en", "test", "faq")

    (folder / "built").mkdir()
    build_index([drawn(f"d{n}") for n in range(200)], RetrievalConfig(), folder / "built")
    made = IndexStore.create(folder / "store", folder / "built")
    for batch in range(3):
        made.update([drawn(f"d{chance.randrange(300)}-{n}") for n in range(40)], [f"d{batch}"])
    made.update([drawn("d50"), drawn("d51")])
    return made


@pytest.mark.parametrize("shards", [1, 3, 9])
def test_shards_answer_as_one(ray_local: None, store: IndexStore, shards: int) -> None:
    whole, sharded = store.open(), open_sharded(store.root, shards, {"num_cpus": 0})
    assert len(whole.corpus.parts) == 5
    assert len(sharded) == len(whole)
    chance = random.Random(4)
    queries = [" ".join(chance.sample(WORDS, 3)) for _ in range(15)] + ["word0 word0 unknown", "", "word0", "集群"]
    exclude = [("d5", "d50", "absent") if n % 2 else () for n in range(len(queries))]
    assert sharded.search_batch(queries, 50, exclude) == whole.search_batch(queries, 50, exclude)
    for query in queries[:4]:
        hits = whole.search(query, 3)
        assert sharded.search(query, 3) == hits
        for hit in hits:
            assert sharded.explain(query, hit.doc_id) == whole.explain(query, hit.doc_id)
            assert sharded.passage(hit.doc_id) == whole.passage(hit.doc_id)


def test_shards_know_the_prior_and_feed_back(ray_local: None, store: IndexStore, tmp_path: Path) -> None:
    prior = Prior("title", "x", {"word0": (0, 9), "word1": (5, 9)})
    settings = RetrievalConfig(
        prior=PriorConfig(file="absent", sha256=prior.sha256, weight=1.0), feedback=FeedbackConfig()
    )
    (tmp_path / "built").mkdir()
    build_index(list(store.open().corpus.passages()), settings, tmp_path / "built", prior)
    made = IndexStore.create(tmp_path / "store", tmp_path / "built")
    made.update([Passage("new", "word1", "word0 word1", "en", "test", "faq")])
    hits = made.open().search("word0 word1", 300)
    assert open_sharded(made.root, 2, {"num_cpus": 0}).search("word0 word1", 300) == hits
    assert len({hit.prior for hit in hits}) > 2


def test_no_index_is_said_before_actors_start(ray_local: None, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no index here"):
        open_sharded(tmp_path, 2)
