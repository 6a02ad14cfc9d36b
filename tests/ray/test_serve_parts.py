"""Other forms of the application on a local Ray: the retriever apart and in batches, search alone, answers alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from small_service import QUESTION, args_for, ask  # type: ignore[import-not-found]

from ragray.artifact import Artifact
from ragray.serve.app import build

QUERIES = ["install ragray", "训练模型", "zzz", QUESTION, "ragray train --config", "Python 3.11"]


@contextmanager
def served_beside(url: str, name: str, args: dict[str, Any]) -> Iterator[str]:
    """A second application, for as long as that takes: each generator reserves a processor."""
    from ray import serve

    serve.run(build(args), name=name, route_prefix=f"/{name}")
    yield f"{url}/{name}"
    serve.delete(name)


@pytest.fixture(params=[1, 4], ids=["one by one", "in batches"])
def apart(request: pytest.FixtureRequest, url: str, artifacts: dict[str, Artifact]) -> Iterator[str]:
    """An application whose retriever has replicas of its own, beside the default one."""
    args = args_for(artifacts)
    batch = {"retriever_batch_size": request.param, "retriever_batch_wait_ms": 20.0}
    args["serve"] |= {"retriever": "deployment", **batch}
    with served_beside(url, f"apart{request.param}", args) as place:
        yield place


def searched(url: str, query: str, top_k: int) -> Any:
    response = httpx.post(f"{url}/v1/search", json={"query": query, "top_k": top_k, "explain": True}, timeout=60)
    assert response.status_code == 200, response.text
    return {**response.json(), "timings_ms": None}


def test_a_retriever_apart_gives_identical_answers(url: str, apart: str) -> None:
    from ray import serve

    name = apart.rsplit("/", 1)[1]
    assert set(serve.status().applications[name].deployments) == {"Ingress", "Retriever", "Generator"}
    asked = [(query, top_k) for query in QUERIES for top_k in (1, 2, 10)]
    with ThreadPoolExecutor(8) as pool:  # so that batches of different lengths come together
        found = list(pool.map(lambda one: searched(apart, *one), asked))
    assert found == [searched(url, *one) for one in asked]
    assert any(one["hits"] for one in found)
    for question in (QUESTION, "Zugzwang?"):
        ours, theirs = (ask(one, question, cache=False).json() for one in (url, apart))
        assert [ours[key] for key in ("choices", "citations", "probability", "lineage")] == [
            theirs[key] for key in ("choices", "citations", "probability", "lineage")
        ]


def test_an_engine_in_the_ingress_gives_identical_answers(url: str, artifacts: dict[str, Artifact]) -> None:
    from ray import serve

    args = args_for(artifacts)
    args["serve"] |= {"generator": "ingress"}
    with served_beside(url, "held", args) as held:
        assert set(serve.status().applications["held"].deployments) == {"Ingress"}
        ours, theirs = (ask(one, cache=False).json() for one in (url, held))
        assert [ours[key] for key in ("choices", "usage", "lineage")] == [
            theirs[key] for key in ("choices", "usage", "lineage")
        ]
        assert ours["usage"]["completion_tokens"] == 12


def test_the_default_application_has_no_retriever_of_its_own(url: str) -> None:
    from ray import serve

    assert set(serve.status().applications["ragray"].deployments) == {"Ingress", "Generator"}


def test_search_alone_and_answers_alone(url: str, artifacts: dict[str, Artifact]) -> None:
    args = args_for(artifacts)
    index, engine = ({"artifacts": {name: args["artifacts"][name]}} for name in ("index", "engine"))
    with served_beside(url, "searching", {**args, **index, "parts": "retrieval"}) as searching:
        assert searched(searching, "训练模型", 5)["hits"] == searched(url, "训练模型", 5)["hits"]
        assert ask(searching).json()["error"]["code"] == "not_served"
    with served_beside(url, "writing", {**args, **engine, "parts": "generation"}) as writing:
        answer = ask(writing).json()
        assert answer["usage"]["completion_tokens"] == 12 and answer["citations"] == []
        assert answer["usage"]["prompt_tokens"] < ask(url).json()["usage"]["prompt_tokens"]
        refused = httpx.post(f"{writing}/v1/search", json={"query": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_served")
