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
from small_service import QUESTION, args_for, ask, free_port, renewed  # type: ignore[import-not-found]

from ragray.artifact import Artifact
from ragray.errors import WorkError
from ragray.serve.app import build
from ragray.serve.artifacts import Served
from ragray.serve.swap import swap

Seen = list[tuple[str, float, dict[str, str]]]  # what was asked, when, lineage


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
    found: dict[str, Artifact] = renewed(tmp_path_factory.mktemp("others"))
    return found


@pytest.fixture(scope="module")
def apart(url: str, artifacts: dict[str, Artifact]) -> Iterator[str]:
    """An application whose parts are all apart, with two ingresses."""
    settings = {"retriever": "deployment", "retriever_batch_size": 4, "ingress_replicas": 2}
    with serving(url, "apart", artifacts, settings) as place:
        yield place


@pytest.fixture(scope="module")
def held(url: str, artifacts: dict[str, Artifact]) -> Iterator[str]:
    """One whose ingress holds all."""
    with serving(url, "held", artifacts, {"generator": "ingress"}) as place:
        yield place


def served_of(artifacts: dict[str, Artifact]) -> Served:
    return Served.of(artifacts["index"], artifacts["calibrate"], artifacts["engine"])


def swapped(name: str, artifacts: dict[str, Artifact], **more: Any) -> list[str]:
    """What the command says."""
    said: list[str] = []
    swap(lambda parts: replace(served_of(artifacts), **more), name, 60.0, said.append)
    return said


@contextmanager
def serving(
    url: str, name: str, artifacts: dict[str, Artifact], settings: dict[str, Any], **more: Any
) -> Iterator[str]:
    from ray import serve

    args = args_for(artifacts, **more)
    args["serve"] |= settings
    serve.run(build(args), name=name, route_prefix=f"/{name}")
    try:
        yield f"{url}/{name}"
    finally:
        serve.delete(name)


@contextmanager
def asked_on(url: str) -> Iterator[Callable[[], Seen]]:
    """Searches and chats without a pause, some of them streamed; what they gave so far."""
    done, seen = threading.Event(), list[tuple[str, float, dict[str, str]]]()
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 6}

    def ask_on(path: str, more: dict[str, Any]) -> None:
        with httpx.Client(timeout=60) as client:
            while not done.is_set():
                begun = time.monotonic()
                response = client.post(f"{url}{path}", json=more)
                assert response.status_code == 200, response.text
                seen.append((path, begun, response.json()["lineage"]))

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


@pytest.mark.parametrize("name", ["apart", "held"])
def test_a_swap_and_the_way_back_fail_no_request(
    name: str, artifacts: dict[str, Artifact], others: dict[str, Artifact], request: pytest.FixtureRequest
) -> None:
    first, second = served_of(artifacts), served_of(others)
    assert {first.lineage[part] == second.lineage[part] for part in first.lineage} == {False}
    place = request.getfixturevalue(name)
    with asked_on(place) as seen:
        for number, (following, of_them) in enumerate([(second, others), (first, artifacts)], start=2):
            said = swapped(name, of_them)
            assert said[-1].startswith(f"release {number} answers: index {following.lineage['index'][:12]}")
            since = time.monotonic()  # what ran when the command returned may still be of the former
            for path in ("/v1/search", "/v1/chat/completions"):
                wait(lambda path=path, since=since: sum(one[0] == path and one[1] >= since for one in seen()) >= 4)
            after = [one for one in seen() if one[1] >= since]
            assert lineages(after, "/v1/chat/completions") == {told(following)}
            assert lineages(after, "/v1/search") == {told(following, "index")}
            assert release_of(place) == number
        assert "answers from these artifacts already" in swapped(name, artifacts)[0]
        assert ask(place).json()["system_fingerprint"] == first.lineage["engine"][:16]
    assert lineages(seen(), "/v1/chat/completions") == {told(first), told(second)}
    assert lineages(seen(), "/v1/search") == {told(first, "index"), told(second, "index")}


def test_what_cannot_be_loaded_leaves_the_former_release(
    apart: str, artifacts: dict[str, Artifact], others: dict[str, Artifact], tmp_path: Path
) -> None:
    damaged = tmp_path / "artifacts" / "engine" / "damaged"
    shutil.copytree(others["engine"].uri, damaged)
    model = next(damaged.rglob("model.safetensors"))
    model.write_bytes(model.read_bytes()[:-100] + b"x" * 100)
    former = release_of(apart)
    with asked_on(apart) as seen:
        with pytest.raises(
            WorkError, match=rf"release {former} answers on: Generator#\w+ cannot load it: (.|\n)*Fix: "
        ):
            swapped("apart", others, engine=str(damaged))
        count = len(seen())
        wait(lambda: len(seen()) >= count + 6)
    assert lineages(seen(), "/v1/chat/completions") == {told(served_of(artifacts))}
    assert release_of(apart) == former


def test_a_swap_that_is_interrupted_is_undone(
    apart: str, artifacts: dict[str, Artifact], others: dict[str, Artifact]
) -> None:
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if "loaded by" in line:
            raise KeyboardInterrupt

    former = release_of(apart)
    with pytest.raises(KeyboardInterrupt):
        swap(lambda parts: served_of(others), "apart", 60.0, interrupt)
    assert said[-1] == f"release {former} answers on"
    time.sleep(2)
    assert (lineage_of(apart), release_of(apart)) == (told(served_of(artifacts)), former)


def test_replicas_and_records_that_are_lost_come_back_with_the_release(
    held: str, artifacts: dict[str, Artifact], others: dict[str, Artifact]
) -> None:
    import ray

    former = release_of(held)
    swapped("held", others)
    ray.kill(ray.get_actor(record := name_of("ragray", "releases of held "), namespace="ragray"))
    wait(lambda: recorded(record) == former + 1)  # by another actor
    ray.kill(ray.get_actor(name_of("serve", "held#Ingress#"), namespace="serve"))
    wait(lambda: ask(held, cache=False).status_code == 200 and release_of(held) == former + 1)
    assert lineage_of(held) == told(served_of(others))
    swapped("held", artifacts)
    assert lineage_of(held) == told(served_of(artifacts))


def test_the_record_ends_with_the_application(url: str, artifacts: dict[str, Artifact]) -> None:
    import ray

    with serving(url, "ended", {"index": artifacts["index"]}, {}, parts="retrieval") as place:
        assert release_of(place) == 1 and name_of("ragray", "releases of ended ")
    wait(lambda: not any("releases of ended " in one["name"] for one in ray.util.list_named_actors(True)))
    with pytest.raises(WorkError, match="no application 'ended' of ragray runs"):
        swapped("ended", artifacts)


def name_of(namespace: str, part: str) -> str:
    import ray

    found = [one for one in ray.util.list_named_actors(all_namespaces=True) if part in one["name"]]
    (name,) = [str(one["name"]) for one in found if one["namespace"] == namespace]
    return name


def recorded(record: str) -> int:
    """The release that an actor has heard of; 0: there is no actor."""
    import ray

    try:
        actor: Any = ray.get_actor(record, namespace="ragray")
        return int(ray.get(actor.current.remote()).number)
    except (ValueError, ray.exceptions.RayActorError):
        return 0


def lineage_of(url: str) -> tuple[tuple[str, str], ...]:
    """Of an answer that is made now."""
    return tuple(sorted(ask(url, cache=False).json()["lineage"].items()))


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)
