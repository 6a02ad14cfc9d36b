"""A release that is switched to between two requests, and how another terminal finds the service that it is for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_ingress import QUESTION, Client  # type: ignore[import-not-found]
from typer.testing import CliRunner

from ragray.cli import app
from ragray.engine.protocol import SamplingParams
from ragray.errors import ConfigError, WorkError
from ragray.retrieval.index import HybridIndex
from ragray.serve import running
from ragray.serve.chat import Ask, Reply
from ragray.serve.current import Behind
from ragray.serve.generator import Generator
from ragray.serve.ingress import Door
from ragray.serve.retriever import Retriever

RENEWED = {"index": "j" * 64, "confidence": "d" * 64, "engine": "f" * 64, "model": "n" * 64}
ASK = Ask(QUESTION, SamplingParams(max_new_tokens=64, stop_repeats=True))


@pytest.fixture
def renewed(door: Door, index: HybridIndex, engine: Any) -> Behind:
    confidence = door.retriever._confidence  # type: ignore[attr-defined]
    wrote = {"engine": RENEWED["engine"], "model": RENEWED["model"]}
    retriever, generator = Retriever(index, confidence, RENEWED), Generator(engine, 4096, lineage=wrote)
    return Behind(retriever, generator, RENEWED, 1_800_000_000, number=2)


def test_after_the_switch_everything_is_of_the_new_release(door: Door, renewed: Behind) -> None:
    client = Client(door)
    before = client.chat().json()
    assert client.chat().headers["x-ragray-cache"] == "hit"
    door.current.now = renewed
    after = client.chat()
    assert after.headers["x-ragray-cache"] == "miss"
    assert after.json()["lineage"] == RENEWED != before["lineage"]
    assert (before["system_fingerprint"], after.json()["system_fingerprint"]) == ("e" * 16, "f" * 16)
    assert client("POST", "/v1/search", json={"query": "x"}).json()["lineage"] == {"index": RENEWED["index"]}
    status = client("GET", "/v1/status").json()
    assert (status["release"], status["lineage"], status["created"]) == (2, RENEWED, 1_800_000_000)
    assert client("GET", "/readyz").json()["release"] == 2
    assert client("GET", "/v1/models").json()["data"][0]["created"] == 1_800_000_000
    assert client.chat().headers["x-ragray-cache"] == "hit"
    assert door.chat._answers.stats()["left.retired"] == 1  # of the former release


def test_an_answer_ends_on_the_release_it_began_with_and_is_not_kept(door: Door, renewed: Behind) -> None:
    former = dict(door.current.now.lineage)

    async def overtaken() -> tuple[Reply, Reply]:
        slow = await door.chat.begin(ASK)
        door.current.now = renewed
        new = await door.chat.answer(await door.chat.begin(ASK))
        return await door.chat.answer(slow), new

    old, new = asyncio.run(overtaken())
    assert (old.lineage, new.lineage) == (former, RENEWED)
    assert door.chat._answers.stats()["entries"] == 1


def test_passages_of_the_former_release_are_not_kept_for_the_new_one(
    door: Door, renewed: Behind, index: HybridIndex
) -> None:
    """Its search ends after the switch."""
    kept, former, new = door.chat._retrievals, door.retriever, renewed.retriever

    async def overtaken() -> list[str]:
        gate = asyncio.Event()

        class Slow(Retriever):
            async def retrieve(self, question: str) -> Any:
                await gate.wait()
                return replace(await former.retrieve(question), lineage={"index": "former"})

        slow = asyncio.create_task(kept.retrieve(Slow(index, None), QUESTION))
        await asyncio.sleep(0)
        await kept.retrieve(new, "another")
        gate.set()
        await slow
        return [(await kept.retrieve(new, QUESTION)).lineage["index"] for _ in range(2)]

    assert asyncio.run(overtaken()) == [RENEWED["index"]] * 2


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--swap", "--host", "127.0.0.1"], "--host"), (["--app", "ragray"], "--app")]
)
def test_options_that_would_be_ignored_are_refused(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["serve", "--config", "configs/demo.yaml", *arguments])
    assert isinstance(done.exception, ConfigError) and says in done.exception.message


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(running.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"ragray-serve-{os.getuid()}"


def test_a_service_is_found_by_its_port_while_it_runs(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with running.noted(8410, "127.0.0.1:6379"):
        assert running._note(8410) == ("127.0.0.1:6379", "token")
        assert notes.stat().st_mode & 0o777 == 0o700
        with pytest.raises(WorkError, match=r"port 8411(.|\n)*--port"):
            running._note(8411)
    with pytest.raises(WorkError, match="port 8410"):
        running._note(8410)


def test_a_service_that_was_killed_is_not_found(notes: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    notes.mkdir(mode=0o700)
    told = {"address": "127.0.0.1:6379", "pid": ended.pid, "auth_mode": None}
    for text in (json.dumps(told), "{"):
        (notes / "8410.json").write_text(text)
        with pytest.raises(WorkError, match="port 8410"):
            running._note(8410)


def test_a_note_that_others_could_have_written_is_not_read(notes: Path) -> None:
    notes.mkdir(mode=0o700)
    notes.chmod(0o777)
    with pytest.raises(WorkError, match="yours alone"):
        running._note(8410)
