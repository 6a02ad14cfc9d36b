"""Index and engine of a served application swapped for others under load: no failed request, no answer of a mixture."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_service import (  # type: ignore[import-not-found]
    ENGINE,
    PASSAGES,
    QUESTION,
    args_for,
    ask,
    free_port,
    random_model,
    save,
)  # fmt: skip

from ragray.artifact import Artifact, Source, Store
from ragray.config import RetrievalConfig
from ragray.engine.build import build_engine
from ragray.errors import WorkError
from ragray.retrieval.confidence import FEATURES, Confidence
from ragray.retrieval.writing import build_index
from ragray.serve.app import build
from ragray.serve.artifacts import Served
from ragray.serve.swap import swap

Seen = list[tuple[str, int, dict[str, str]]]  # what was asked, status, lineage
APART = {"retriever": "deployment", "retriever_batch_size": 4, "ingress_replicas": 2}
HELD = {"generator": "ingress"}


@pytest.fixture(scope="module")
def url(ray_local: None) -> Iterator[str]:
    from ray import serve
    from ray.serve.config import HTTPOptions

    port = free_port()
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A second index with its confidence, and a second engine."""
    root = tmp_path_factory.mktemp("others")
    store = Store(str(root / "artifacts"))
    passages = [replace(one, text=f"{one.text} Renewed.") for one in PASSAGES]
    confidence = Confidence(5.0, (0.0,) * len(FEATURES), 0.4, 0.05, {}, {}, ())
    index = save(store, "index", lambda draft: build_index(passages, RetrievalConfig(), draft.folder))
    merge = save(
        store,
        "merge",
        lambda draft: (draft.folder / "renewed").touch(),
        {"train": Source("train", "elsewhere", "b" * 64)},
    )
    model = random_model(root / "model", seed=1)
    calibrated = save(store, "calibrate", lambda d: confidence.write(d.folder), {"index": index.source()})
    engine = save(store, "engine", lambda d: build_engine(model, ENGINE, d.folder), {"merge": merge.source()})
    return {"index": index, "calibrate": calibrated, "merge": merge, "engine": engine}


def served_of(artifacts: dict[str, Artifact]) -> Served:
    return Served.of(artifacts["index"], artifacts["calibrate"], artifacts["engine"])


def swapped(name: str, artifacts: dict[str, Artifact], **more: Any) -> list[str]:
    """What the command says."""
    said: list[str] = []
    swap(lambda parts: replace(served_of(artifacts), **more), name, 60.0, said.append)
    return said


@contextmanager
def serving(url: str, name: str, artifacts: dict[str, Artifact], settings: dict[str, Any]) -> Iterator[str]:
    from ray import serve

    args = args_for(artifacts)
    args["serve"] |= settings
    serve.run(build(args), name=name, route_prefix=f"/{name}")
    try:
        yield f"{url}/{name}"
    finally:
        serve.delete(name)


@contextmanager
def asked_on(url: str) -> Iterator[Callable[[], Seen]]:
    """Searches and chats without a pause, some of them streamed; what they gave so far."""
    done, seen = threading.Event(), list[tuple[str, int, dict[str, str]]]()
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 6}

    def ask_on(path: str, more: dict[str, Any]) -> None:
        with httpx.Client(timeout=60) as client:
            while not done.is_set():
                response = client.post(f"{url}{path}", json=more)
                assert response.status_code == 200, response.text
                seen.append((path, response.status_code, response.json()["lineage"]))

    asking = [("/v1/search", {"query": QUESTION}), ("/v1/chat/completions", {**body, "cache": False}),
              ("/v1/chat/completions", body)]  # fmt: skip
    with ThreadPoolExecutor(len(asking)) as pool:
        futures: list[Future[None]] = [pool.submit(ask_on, *one) for one in asking]
        try:
            yield lambda: list(seen)
        finally:
            done.set()
        for future in futures:
            future.result()


def lineages(seen: Seen, path: str) -> set[tuple[tuple[str, str], ...]]:
    return {tuple(sorted(lineage.items())) for asked, _, lineage in seen if asked == path}


def told(served: Served, *names: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, digest) for name, digest in served.lineage.items() if not names or name in names))


def release_of(url: str) -> int:
    return int(httpx.get(f"{url}/readyz").json()["release"])


@pytest.mark.parametrize("settings", [APART, HELD], ids=["parts apart", "all in the ingress"])
def test_a_swap_and_the_way_back_fail_no_request(
    url: str, artifacts: dict[str, Artifact], others: dict[str, Artifact], settings: dict[str, Any]
) -> None:
    first, second = served_of(artifacts), served_of(others)
    assert {first.lineage[name] == second.lineage[name] for name in first.lineage} == {False}
    name = f"swap{len(settings)}"
    with serving(url, name, artifacts, settings) as place, asked_on(place) as seen:
        for number, (following, of_them) in enumerate([(second, others), (first, artifacts)], start=2):
            time.sleep(1)
            said = swapped(name, of_them)
            assert said[-1].startswith(f"release {number} answers: index {following.lineage['index'][:12]}")
            before = len(seen())
            while len(seen()) < before + 12:
                time.sleep(0.05)
            after = seen()[before + 3 :]  # what ran when the command returned may still be of the former
            assert lineages(after, "/v1/chat/completions") == {told(following)}
            assert lineages(after, "/v1/search") == {told(following, "index")}
            assert release_of(place) == number
        assert "answers from these artifacts already" in swapped(name, artifacts)[0]
        assert ask(place).json()["system_fingerprint"] == first.lineage["engine"][:16]
    assert lineages(seen(), "/v1/chat/completions") == {told(first), told(second)}
    assert lineages(seen(), "/v1/search") == {told(first, "index"), told(second, "index")}


def test_what_cannot_be_loaded_leaves_the_former_release(
    url: str, artifacts: dict[str, Artifact], others: dict[str, Artifact], tmp_path: Path
) -> None:
    damaged = tmp_path / "artifacts" / "engine" / "damaged"
    shutil.copytree(others["engine"].uri, damaged)
    model = next(damaged.rglob("model.safetensors"))
    model.write_bytes(model.read_bytes()[:-100] + b"x" * 100)
    first = served_of(artifacts)
    with serving(url, "damaged", artifacts, {}) as place, asked_on(place) as seen:
        with pytest.raises(WorkError, match=r"release 1 answers on: Generator#\w+ cannot load it: (.|\n)*Fix: "):
            swapped("damaged", others, engine=str(damaged))
        after = len(seen())
        while len(seen()) < after + 6:
            time.sleep(0.05)
        assert lineages(seen(), "/v1/chat/completions") == {told(first)}
        assert release_of(place) == 1
        swapped("damaged", others)  # a number is not used twice
        assert release_of(place) == 3
    with pytest.raises(WorkError, match="no application 'damaged' of ragray runs"):
        swapped("damaged", others)


def test_replicas_and_records_that_are_lost_come_back_with_the_release(
    url: str, artifacts: dict[str, Artifact], others: dict[str, Artifact]
) -> None:
    import ray

    second = served_of(others)
    with serving(url, "killed", artifacts, HELD) as place:
        swapped("killed", others)
        (record,) = [
            one["name"] for one in ray.util.list_named_actors(all_namespaces=True)
            if one["name"].startswith("releases of killed ")
        ]  # fmt: skip
        ray.kill(ray.get_actor(record, namespace="ragray"))
        time.sleep(2)  # another is made, and hears of the release
        (replica,) = [
            one for one in ray.util.list_named_actors(all_namespaces=True)
            if one["namespace"] == "serve" and "killed#Ingress#" in one["name"]
        ]  # fmt: skip
        ray.kill(ray.get_actor(replica["name"], namespace="serve"), no_restart=True)
        deadline = time.monotonic() + 60
        while (answer := ask(place, cache=False)).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.2)
        assert (tuple(sorted(answer.json()["lineage"].items())), release_of(place)) == (told(second), 2)


def test_a_swap_that_is_interrupted_is_undone(
    url: str, artifacts: dict[str, Artifact], others: dict[str, Artifact]
) -> None:
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if "loaded by" in line:
            raise KeyboardInterrupt

    with serving(url, "stopped", artifacts, {}) as place:
        with pytest.raises(KeyboardInterrupt):
            swap(lambda parts: served_of(others), "stopped", 60.0, interrupt)
        assert said[-1] == "release 1 answers on"
        time.sleep(2)
        answer = ask(place, cache=False).json()
        assert (tuple(sorted(answer["lineage"].items())), release_of(place)) == (told(served_of(artifacts)), 1)
