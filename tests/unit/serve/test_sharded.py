"""Shards behind handles: asked again once, lost in time and by name, and never those of another index."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError
from segmented import index_of  # type: ignore[import-not-found]

from ragray.distributed.sharded_corpus import Call
from ragray.distributed.shards import open_over, segment_groups
from ragray.retrieval.index import HybridIndex, described
from ragray.serve.api import ApiError
from ragray.serve.sharded import ServedShards, ShardReplica, identity

Answer = Callable[[str, str, tuple[Any, ...]], Awaitable[Any]]


class Response:
    """What a handle's call gives: it can be awaited and cancelled."""

    def __init__(self, answer: Awaitable[Any]) -> None:
        self._task = asyncio.ensure_future(answer)

    def __await__(self) -> Any:
        return self._task.__await__()

    def cancel(self) -> None:
        self._task.cancel()


class Handle:
    """A deployment's handle whose calls `answer` answers."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.calls = 0

    @property
    def answer(self) -> Handle:
        return self

    def remote(self, of: str, method: str, arguments: tuple[Any, ...]) -> Response:
        self.calls += 1
        return Response(self._answer(of, method, arguments))


async def good(of: str, method: str, arguments: tuple[Any, ...]) -> Any:
    return of, method, arguments


async def hanging(of: str, method: str, arguments: tuple[Any, ...]) -> Any:
    await asyncio.sleep(60)


def asked(handles: Sequence[Handle], timeout_s: float = 0.3, times: int = 1) -> tuple[list[Any], float]:
    """What each call to all shards gives, or raises, and how long they took, seconds."""

    async def run() -> list[Any]:
        shards = ServedShards(handles, ["x", "y"], timeout_s)  # type: ignore[arg-type]
        shards.loop = asyncio.get_running_loop()
        calls = [Call(shard, "numbers", ([],)) for shard in range(len(handles))]
        return [(await asyncio.gather(asyncio.to_thread(shards.ask, calls), return_exceptions=True))[0]
                for _ in range(times)]  # fmt: skip

    begun = time.monotonic()
    return asyncio.run(run()), time.monotonic() - begun


def test_all_shards_are_asked_under_their_names() -> None:
    assert asked([Handle(good), Handle(good)])[0] == [[("x", "numbers", ([],)), ("y", "numbers", ([],))]]


def test_a_shard_that_hangs_is_lost_in_time_and_not_waited_for_again() -> None:
    fine, lost = Handle(good), Handle(hanging)
    found, took_s = asked([fine, lost], times=20)
    assert {(error.status, error.code, error.retry_after_s) for error in found} == {(503, "restarting", 2)}
    assert {error.body()["error"]["message"] for error in found} == {
        "shard 2 of 2 of the index does not answer; try again"
    }
    assert lost.calls == 1 and took_s < 5


def test_a_replica_that_dies_is_asked_again_once() -> None:
    async def dying(of: str, method: str, arguments: tuple[Any, ...]) -> Any:
        if handle.calls == 1:
            raise ActorDiedError
        return "found"

    async def dead(of: str, method: str, arguments: tuple[Any, ...]) -> Any:
        raise ActorDiedError

    handle = Handle(dying)
    assert asked([handle])[0] == [["found"]] and handle.calls == 2
    gone = Handle(dead)
    assert isinstance(asked([gone])[0][0], ApiError) and gone.calls == 2


def test_a_full_queue_is_no_lost_shard() -> None:
    async def full(of: str, method: str, arguments: tuple[Any, ...]) -> Any:
        raise BackPressureError(1, 1)

    assert [error.status for error in asked([Handle(full)], times=2)[0]] == [429, 429]


def test_shards_are_not_asked_from_their_event_loop() -> None:
    async def run() -> None:
        shards = ServedShards([Handle(good)], ["x"], 1.0)  # type: ignore[list-item]
        shards.loop = asyncio.get_running_loop()
        with pytest.raises(AssertionError, match="from threads"):
            shards.ask([Call(0, "numbers", ([],))])

    asyncio.run(run())


def test_what_a_shard_refuses_comes_through_as_it_said_it() -> None:
    from ray.exceptions import RayTaskError

    async def refusing(of: str, method: str, arguments: tuple[Any, ...]) -> Any:
        refused = ApiError(503, "the index is being replaced; try again", code="restarting")
        raise RayTaskError("answer", "trace", refused).as_instanceof_cause()

    (error,), _ = asked([Handle(refusing)])
    assert type(error) is ApiError and "being replaced" in error.body()["error"]["message"]


def test_a_shard_answers_for_its_own_index_and_share_only(tmp_path: Path) -> None:
    index = index_of(tmp_path, 4)
    digest = described(index.folder)["digest"]
    replica = ShardReplica(index.uri, [1, 2])
    assert replica.answer(identity(digest, [1, 2]), "numbers", (["d0", "d10", "d29"],)) == [None, 10, 29]
    for other in (identity(digest, [1]), identity("0" * 64, [1, 2])):
        with pytest.raises(ApiError, match="being replaced"):
            replica.answer(other, "numbers", ([],))
    with pytest.raises(ApiError):
        replica.answer(identity(digest, [1, 2]), "__init__", ("elsewhere", [0]))


class Here:
    """Shards in this process, whose round trips are counted."""

    def __init__(self, folder: Path, groups: Sequence[Sequence[int]]) -> None:
        from ragray.distributed.shards import Shard

        self._shards = [Shard(str(folder), group) for group in groups]
        self.trips = 0

    def __len__(self) -> int:
        return len(self._shards)

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        self.trips += bool(calls)
        return [getattr(self._shards[one.shard], one.method)(*one.arguments) for one in calls]


def test_questions_that_meet_take_five_rounds_and_the_confidence_none(tmp_path: Path) -> None:
    from ragray.retrieval.confidence import features

    folder = index_of(tmp_path, 4).folder
    groups = segment_groups(folder, 3)
    here, whole = Here(folder, groups), HybridIndex.open(folder)
    index = open_over(folder, here, groups)
    queries = ["word1 title 3", "text 17", "word4 word7 nothing", "word0 word1 word2 word3 word4 word9"]
    found = index.search_batch(queries, 10)
    assert found == whole.search_batch(queries, 10) and here.trips <= 5
    trips = here.trips
    for query, hits in zip(queries, found, strict=True):
        assert features(index, query, hits).tolist() == features(whole, query, hits).tolist()
        assert [index.passage(hit.doc_id) for hit in hits] == [whole.passage(hit.doc_id) for hit in hits]
    assert here.trips == trips
    index.search_batch(queries, 10)
    assert here.trips <= trips + 2  # rankings, and scores that they lack


def test_little_memory_changes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragray.distributed.sharded_corpus._REMEMBERED_TERMS", 2)
    monkeypatch.setattr("ragray.distributed.sharded_corpus._REMEMBERED_PASSAGES", 3)
    folder = index_of(tmp_path, 4).folder
    groups = segment_groups(folder, 2)
    index, whole = open_over(folder, Here(folder, groups), groups), HybridIndex.open(folder)
    for query in ("word1 title 3", "text 17", "word4 word7 nothing"):
        hits = index.search(query, 10)
        assert hits == whole.search(query, 10)
        assert index.explain(query, hits[0].doc_id) == whole.explain(query, hits[0].doc_id)
