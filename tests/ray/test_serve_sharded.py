"""An index in three shards, served: the answers of one index; a lost shard is said, and comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from small_service import ENGINE, args_for, ask, free_port, random_model, save  # type: ignore[import-not-found]

from ragray.artifact import Artifact, Store
from ragray.config import RetrievalConfig
from ragray.schema import Passage
from ragray.serve.app import build

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHARDS = 3


def rows_of(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_bytes().split(b"\n") if line.strip()]


QUESTIONS = [row["question"] for row in rows_of(ROOT / "data/evaluation/questions.jsonl")]


def passages() -> list[Passage]:
    """Bundled questions with their answers, and the paragraphs of the documentation."""
    rows = rows_of(*(ROOT / f"data/faq/{name}.jsonl" for name in ("data_zh", "engines_en")))
    faq = [Passage(f"faq-{n}", row["question"], row["answer"], "en", "faq", "faq") for n, row in enumerate(rows)]
    files = sorted((ROOT / "docs").glob("*.md"))
    texts = [text for file in files for text in file.read_text("utf-8").split("\n\n") if text.strip()]
    return faq + [Passage(f"doc-{n}", "", text, "en", "docs", "document") for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def service(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(an application over one index, one over the same in shards)."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    from ragray.distributed.index import _build_segments
    from ragray.engine.build import build_engine
    from ragray.retrieval.confidence import FEATURES, Confidence
    from ragray.retrieval.writing import build_index

    root = tmp_path_factory.mktemp("sharded")
    model = random_model(root / "model")
    confidence = Confidence(-2.0, (3.0, 1.0, 2.0, -1.0, 0.1)[: len(FEATURES)], 0.3, 0.05, {}, {}, ())

    def artifacts(name: str, segments: int | None) -> dict[str, Artifact]:
        store, settings = Store(str(root / name)), RetrievalConfig(segments=segments)
        write = _build_segments if segments else build_index
        index = save(store, "index", lambda draft: write(passages(), settings, draft.folder))
        merge = save(store, "merge", lambda draft: None)
        return {
            "index": index,
            "calibrate": save(store, "calibrate", lambda d: confidence.write(d.folder), {"index": index.source()}),
            "engine": save(store, "engine", lambda d: build_engine(model, ENGINE, d.folder), {"merge": merge.source()}),
        }

    port = free_port()
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    url = f"http://127.0.0.1:{port}"
    whole, parts = args_for(artifacts("whole", None)), args_for(artifacts("parts", 4))
    parts["serve"] |= {"retriever": "deployment", "retriever_shards": SHARDS, "shard_timeout_s": 2.0}
    for args in (whole, parts):
        args["serve"]["generator"] = "ingress"  # each generator of its own reserves a CPU
    serve.run(build(whole), name="whole", route_prefix="/whole")
    serve.run(build(parts), name="parts", route_prefix="/parts")
    yield f"{url}/whole", f"{url}/parts"
    serve.shutdown()


def searched(url: str, query: str, top_k: int = 10, explain: bool = True) -> Any:
    response = httpx.post(f"{url}/v1/search", json={"query": query, "top_k": top_k, "explain": explain}, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()["hits"]


def test_shards_are_deployments(service: tuple[str, str]) -> None:
    from ray import serve

    assert set(serve.status().applications["parts"].deployments) == {
        "Ingress", "Retriever", "Shard1", "Shard2", "Shard3",
    }  # fmt: skip
    ready = httpx.get(f"{service[1]}/readyz", timeout=30)
    assert (ready.status_code, ready.json()["retriever"]) == (200, True)


def test_hits_and_scores_are_those_of_one_index(service: tuple[str, str]) -> None:
    queries = [*QUESTIONS[::3], "ray", "训练 模型", "zzz", "Kubernetes cluster"]
    asked = [(query, top_k) for query in queries for top_k in (1, 10)]
    with ThreadPoolExecutor(8) as pool:  # so that some meet and are searched together
        parts = list(pool.map(lambda one: searched(service[1], *one), asked))
        whole = list(pool.map(lambda one: searched(service[0], *one), asked))
    assert parts == whole
    assert sum(len(hits) for hits in whole) > 200


def test_answers_and_confidence_are_those_of_one_index(service: tuple[str, str]) -> None:
    turns = [{"role": "user", "content": QUESTIONS[3]}, {"role": "user", "content": "How long does it take?"}]
    compared = ("choices", "citations", "probability", "declined", "declined_by", "usage", "retrieval_query")
    probabilities = set()
    asked: list[dict[str, Any]] = [{"question": question} for question in QUESTIONS[5::20]]
    for more in [*asked, {"question": "Who won the chess championship?"}, {"messages": turns}]:
        whole, parts = (ask(url, cache=False, **more).json() for url in service)
        assert [parts[name] for name in compared] == [whole[name] for name in compared]
        probabilities.add(whole["probability"])
    assert len(probabilities) > 3


def shard_process(title: str) -> psutil.Process:
    """The process of a replica of this Ray."""
    ours = psutil.Process().children(recursive=True)
    found = [one for one in ours if one.is_running() and f"ServeReplica:{title}" in " ".join(one.cmdline())]
    assert len(found) == 1, [one.cmdline() for one in ours]
    return found[0]


def test_a_lost_shard_fails_requests_by_its_name_and_comes_back(service: tuple[str, str]) -> None:
    body = {"query": "How do I install ray?", "explain": True}
    before = searched(service[1], str(body["query"]))
    assert before
    shard_process("parts:Shard2").kill()
    codes, deadline, failed = [], time.monotonic() + 90, None
    while not (failed and codes[-1] == 200):
        assert time.monotonic() < deadline, codes
        begun = time.monotonic()
        response = httpx.post(f"{service[1]}/v1/search", json=body, timeout=60)
        codes.append(response.status_code)
        if response.status_code == 200:
            assert response.json()["hits"] == before  # never fewer
        else:
            assert response.status_code == 503 and time.monotonic() - begun < 10
            failed = response
        time.sleep(0.1)
    assert failed.json()["error"]["code"] == "restarting" and int(failed.headers["retry-after"]) >= 1
    assert failed.json()["error"]["message"] == "shard 2 of 3 of the index does not answer; try again"
