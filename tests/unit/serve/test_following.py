"""Answers from an index that changes: each names the version it came from, and none comes from a stale cache."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_ingress import QUESTION, Client, sse  # type: ignore[import-not-found]

from ragray.engine.protocol import SamplingParams
from ragray.retrieval.current import CurrentIndex
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.store import IndexStore
from ragray.schema import Passage
from ragray.serve.chat import Ask, Reply, Turn
from ragray.serve.ingress import Door


@pytest.fixture
def store(index: HybridIndex, tmp_path: Path) -> IndexStore:
    return IndexStore.create(tmp_path / "store", index.folder)


@pytest.fixture
def door(store: IndexStore, make_door: Callable[..., Door]) -> Door:
    return make_door(follow=store.root)


@pytest.fixture
def client(door: Door) -> Client:
    return Client(door)


def installing(text: str) -> Passage:
    return Passage("install-1", QUESTION, text, "en", "a.jsonl", "faq")


def index_of(answer: dict[str, Any]) -> tuple[str, str]:
    return answer["lineage"]["index"], answer["lineage"]["index_version"]


def test_answers_name_the_version_and_the_cache_holds_none_of_another(client: Client, store: IndexStore) -> None:
    first, again = client.chat(), client.chat()
    assert [r.headers["x-ragray-cache"] for r in (first, again)] == ["miss", "hit"]
    assert index_of(first.json()) == index_of(again.json()) == (store.open().digest, "1")
    store.update([installing("Run make install.")])
    renewed, streamed = client.chat(), client.chat(stream=True)
    assert [r.headers["x-ragray-cache"] for r in (renewed, streamed)] == ["miss", "hit"]
    assert index_of(renewed.json()) == index_of(sse(streamed)[-1]) == (store.open().digest, "2")
    assert renewed.json()["citations"][0]["text"] == "Run make install."
    store.roll_back(1)
    back = client.chat()
    assert (back.headers["x-ragray-cache"], index_of(back.json())[1]) == ("miss", "1")  # freed when version 2 came
    assert back.json()["citations"] == first.json()["citations"]
    assert set(back.json()["lineage"]) == {"index", "index_version", "confidence", "engine", "model"}


def test_an_answer_is_kept_for_the_version_that_was_searched(client: Client, door: Door, store: IndexStore) -> None:
    """The index changes between the look into the cache and the search."""

    async def overtaken() -> tuple[Turn, Reply]:
        turn = await door.chat.begin(Ask(QUESTION, SamplingParams(max_new_tokens=64, stop_repeats=True)))
        store.update([installing("Run make install.")])
        return turn, await door.chat.answer(turn)

    turn, reply = asyncio.run(overtaken())
    assert (turn.cache, reply.lineage["index_version"]) == ("miss", "2")
    assert client.chat().headers["x-ragray-cache"] == "hit"
    store.roll_back(1)
    assert client.chat().headers["x-ragray-cache"] == "miss"


def test_search_names_the_version(client: Client, store: IndexStore) -> None:
    def search() -> dict[str, Any]:
        found: dict[str, Any] = client("POST", "/v1/search", json={"query": "zebra"}).json()
        return found

    assert (search()["hits"], index_of(search())) == ([], (store.open().digest, "1"))
    store.update([installing("A zebra.")])
    assert (search()["hits"][0]["doc_id"], index_of(search())) == ("install-1", (store.open().digest, "2"))


def test_a_version_that_cannot_be_opened_shows_in_readyz(client: Client, store: IndexStore) -> None:
    def ready() -> dict[str, Any]:
        response = client("GET", "/readyz")
        assert response.status_code == 200
        return dict(response.json()["index"])

    assert ready() == {"version": 1, "current": True}
    store.update([installing("A zebra.")])
    (store.root / "versions/00000002/index.json").unlink()
    time.sleep(0.01)
    assert ready() == {"version": 1, "current": False}
    assert client.chat().json()["lineage"]["index_version"] == "1"
    store.roll_back(1)
    store.update([installing("A lion.")])
    deadline = time.monotonic() + 10  # a failed version is looked at again after a while
    while ready() != {"version": 3, "current": True}:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_other_questions_are_answered_while_a_version_opens(
    door: Door, store: IndexStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.update([installing("A zebra.")])
    opened = CurrentIndex._open

    def slowly(current: CurrentIndex) -> HybridIndex:
        time.sleep(0.5)
        return opened(current)

    monkeypatch.setattr(CurrentIndex, "_open", slowly)

    async def both() -> tuple[str, list[str]]:
        finder = asyncio.create_task(door.retriever.search("zebra", 1))
        await asyncio.sleep(0.05)
        meanwhile = [(await door.retriever.search("install", 1)).lineage["index_version"] for _ in range(5)]
        return (await finder).lineage["index_version"], meanwhile

    assert asyncio.run(both()) == ("2", ["1"] * 5)
