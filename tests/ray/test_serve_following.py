"""A served index that changes, on a local Ray: it is followed under traffic, and damage does not reach the answers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_service import PASSAGES, args_for, ask, save  # type: ignore[import-not-found]

from ragray.artifact import Artifact, Store
from ragray.config import RetrievalConfig
from ragray.errors import ArtifactError, ConfigError
from ragray.retrieval.store import IndexStore
from ragray.retrieval.writing import build_index
from ragray.serve.app import build


@pytest.fixture(scope="module")
def followed(url: str, artifacts: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """(where a second application answers, the store that it follows)."""
    from ray import serve

    store = IndexStore.create(tmp_path_factory.mktemp("live") / "store", artifacts["index"].folder)
    args = args_for(artifacts)
    args["artifacts"]["index"] = str(store.root)
    serve.run(build(args), name="live", route_prefix="/live")
    return f"{url}/live", store


def wait_for_version(url: str, version: int) -> None:
    deadline = time.monotonic() + 30
    while httpx.get(f"{url}/readyz").json()["index"] != {"version": version, "current": True}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_store_is_followed_under_traffic(followed: tuple[str, Any]) -> None:
    url, store = followed
    done = threading.Event()

    def ask_on() -> list[tuple[str, str]]:
        seen = []
        with httpx.Client(timeout=60) as client:
            while not done.is_set():
                found = client.post(f"{url}/v1/search", json={"query": "zebra ragray", "top_k": 1})
                assert found.status_code == 200, found.text
                seen.append((found.json()["lineage"]["index_version"], found.json()["hits"][0]["text"]))
        return seen

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask_on) for _ in range(2)]
        try:
            for number in range(2, 7):
                store.update([replace(PASSAGES[0], title="zebra", text=f"zebra ragray {number}")])
                wait_for_version(url, number)
                store.prune(1)
        finally:
            done.set()
    seen = {pair for future in asked for pair in future.result()}
    assert {text for version, text in seen if version != "1"} <= {f"zebra ragray {n}" for n in range(2, 7)}
    assert all(text == f"zebra ragray {version}" for version, text in seen if version != "1"), "versions are mixed"
    assert len(seen) > 3
    answer = ask(url, "zebra").json()
    assert (answer["lineage"]["index"], answer["lineage"]["index_version"]) == (store.open().digest, "6")


def test_a_damaged_version_is_not_served(followed: tuple[str, Any]) -> None:
    url, store = followed
    before = store.version
    store.update([replace(PASSAGES[0], text="damaged")])
    (store.root / "versions" / f"{before + 1:08d}" / "frequencies.npy").write_bytes(b"")
    deadline = time.monotonic() + 30
    while httpx.get(f"{url}/readyz").json()["index"] != {"version": before, "current": False}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ask(url, "zebra").json()["lineage"]["index_version"] == str(before)
    store.roll_back(before)
    wait_for_version(url, before)


def test_a_store_of_another_index_is_refused(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    other = save(Store(str(tmp_path)), "index", lambda d: build_index(PASSAGES[:1], RetrievalConfig(), d.folder))
    store = IndexStore.create(tmp_path / "store", other.folder)
    args = args_for(artifacts)
    args["artifacts"]["index"] = str(store.root)
    with pytest.raises(ArtifactError, match=r"fitted on another index(.|\n)*ragray live create"):
        build(args)
    args = args_for(artifacts, serve={"index_store": str(store.root)})
    with pytest.raises(ConfigError, match=r"artifacts\.index"):
        build(args)
