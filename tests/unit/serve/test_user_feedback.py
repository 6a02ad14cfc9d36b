"""Feedback on answers: joined with what was answered, written whole, read again by `prepare` as a source."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from ragray.config import ServeConfig
from ragray.config_data import CleanConfig, ColumnsConfig, FaqSourceConfig
from ragray.config_feedback import UserFeedbackConfig
from ragray.dataprep.clean import clean_row
from ragray.dataprep.read import faq_files, read_rows, read_tables
from ragray.errors import ConfigError
from ragray.prompt import DECLINE
from ragray.schema import QARecord, Rejected
from ragray.serve.feedback import SCHEMA, Feedback, with_absolute_folder
from ragray.serve.ingress import Door, http_api

QUESTION = "How do I install ragray?"


class Session:
    """Requests to an application that run in one event loop, between its start and its end."""

    def __init__(self, door: Door) -> None:
        self._app = http_api(door)

    async def __aenter__(self) -> Session:
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[Any] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._life = asyncio.create_task(self._app(scope, self._to_app.get, self._from_app.put))
        await self._tell("startup")
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://test")
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._http.aclose()
        await self._tell("shutdown")
        await self._life

    async def _tell(self, event: str) -> None:
        await self._to_app.put({"type": f"lifespan.{event}"})
        assert (await self._from_app.get())["type"] == f"lifespan.{event}.complete"

    async def ask(self, question: str = QUESTION, **more: Any) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": question}], **more}
        return dict((await self._http.post("/v1/chat/completions", json=body)).json())

    async def rate(self, **body: Any) -> httpx.Response:
        return await self._http.post("/v1/feedback", json=body)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "feedback"


def with_feedback(door: Door, folder: Path, **settings: Any) -> Door:
    return replace(door, feedback=Feedback(UserFeedbackConfig(folder=str(folder), **settings)))


def rows(folder: Path, at_rest: bool = True) -> list[dict[str, Any]]:
    assert not (at_rest and list(folder.glob("*.part")))
    found = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted(found, key=lambda row: (row["created"], row["rating"], row["answer"]))


def test_a_rating_is_joined_with_the_answer_and_written_at_the_end(door: Door, folder: Path) -> None:
    async def talk() -> dict[str, Any]:
        async with Session(with_feedback(door, folder)) as session:
            answer = await session.ask()
            given = await session.rate(completion_id=answer["id"], rating="up", comment="好")
            assert given.status_code == 200, given.text
            assert given.json()["completion_id"] == answer["id"]
            assert rows(folder) == []
            return answer

    answer = asyncio.run(talk())
    (row,) = rows(folder)
    assert set(row) == set(SCHEMA.names)
    assert (row["question"], row["asked"], row["answer"]) == (QUESTION, QUESTION, "Run make demo.")  # without [1]
    assert (row["rating"], row["comment"], row["corrected"], row["declined"]) == ("up", "好", False, False)
    assert row["citations"] == ["install-1"] and row["from_server"]
    assert json.loads(row["lineage"]) == answer["lineage"] and row["completion_id"] == answer["id"]


def test_streamed_answers_can_be_rated(door: Door, folder: Path) -> None:
    async def talk() -> None:
        async with Session(with_feedback(door, folder)) as session:
            body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True}
            text = (await session._http.post("/v1/chat/completions", json=body)).text
            completion = json.loads(text.split("\n\n")[0].removeprefix("data: "))["id"]
            assert (await session.rate(completion_id=completion, rating="up")).status_code == 200

    asyncio.run(talk())
    assert rows(folder)[0]["answer"] == "Run make demo."


def test_prepare_reads_it_as_a_source_and_learns_only_what_is_right(
    make_door: Callable[..., Door], engine: Any, folder: Path
) -> None:
    async def talk() -> None:
        async with Session(with_feedback(make_door(), folder)) as session:
            up = await session.ask()
            await session.rate(completion_id=up["id"], rating="up")
            down = await session.ask("Which port does the server use?")
            await session.rate(completion_id=down["id"], rating="down")
            better = await session.ask("怎样训练模型？")
            await session.rate(completion_id=better["id"], rating="down", corrected_answer="运行 ragray train。")
            engine.text = DECLINE["en"]
            declined = await session.ask("A killed worker?")
            assert declined["declined"]
            await session.rate(completion_id=declined["id"], rating="up")

    asyncio.run(talk())
    source = FaqSourceConfig(path=str(folder), columns=ColumnsConfig(id="id"))
    (file,) = faq_files([source])
    assert file.format == "parquet"
    records = [clean_row(row, file.file, CleanConfig()) for row in read_rows(file)]
    learned = {record.question: record.answer for record in records if isinstance(record, QARecord)}
    assert learned == {QUESTION: "Run make demo.", "怎样训练模型？": "运行 ragray train。"}
    assert [record.reason for record in records if isinstance(record, Rejected)] == ["empty_answer"] * 2
    assert sum(len(table) for table in read_tables(file, 10)) == 4


def test_a_second_rating_replaces_the_first_until_a_thumb_up_is_written(door: Door, folder: Path) -> None:
    async def talk() -> None:
        opened = with_feedback(door, folder)
        async with Session(opened) as session:
            answer = await session.ask()
            for rating in ("up", "down", "up"):
                assert (await session.rate(completion_id=answer["id"], rating=rating)).status_code == 200
            assert opened.feedback is not None and len(opened.feedback.files) == 1
            await opened.feedback.files.flush()
            refused = await session.rate(completion_id=answer["id"], rating="down")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "feedback_kept")
            other = await session.ask(cache=False)
            await session.rate(completion_id=other["id"], rating="down")
            await opened.feedback.files.flush()
            assert (await session.rate(completion_id=other["id"], rating="up")).status_code == 200

    asyncio.run(talk())
    assert sorted(row["rating"] for row in rows(folder)) == ["down", "up", "up"]


def test_an_answer_that_is_not_remembered_is_taken_with_its_texts_only(door: Door, folder: Path) -> None:
    async def talk() -> None:
        async with Session(with_feedback(door, folder, recent_answers=1)) as session:
            first = await session.ask()
            await session.ask(cache=False)
            refused = await session.rate(completion_id=first["id"], rating="up")
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "completion_not_found")
            assert (await session.rate(rating="up", question="Why?")).status_code == 404
            sent = await session.rate(completion_id=first["id"], rating="up", question="Why?", answer="So.")
            assert sent.status_code == 200
            empty = await session.rate(rating="up", question=" ", answer="So.")
            assert (empty.status_code, empty.json()["error"]["param"]) == (400, "question")

    asyncio.run(talk())
    (row,) = rows(folder)
    assert (row["question"], row["answer"], row["from_server"]) == ("Why?", "So.", False)


def test_what_the_client_sends_is_read_like_what_the_server_remembers(door: Door, folder: Path) -> None:
    async def talk() -> None:
        async with Session(with_feedback(door, folder)) as session:
            for answer in (DECLINE["en"], "Run make demo, see rows[1]. [1] [2]", "[1] Run make demo."):
                sent = await session.rate(rating="up", question="Why?", answer=answer)
                assert sent.status_code == 200

    asyncio.run(talk())
    found = {row["served_answer"]: (row["answer"], row["declined"], row["from_server"]) for row in rows(folder)}
    assert found == {
        DECLINE["en"]: ("", True, False),
        "Run make demo, see rows[1].": ("Run make demo, see rows[1].", False, False),
        "Run make demo.": ("Run make demo.", False, False),
    }


def test_rows_are_written_when_there_are_enough_and_after_a_while(door: Door, folder: Path) -> None:
    async def wait_for(count: int) -> None:
        for _ in range(500):
            if len(rows(folder, at_rest=False)) >= count:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{len(rows(folder))} rows, not {count}")

    async def talk() -> None:
        async with Session(with_feedback(door, folder, batch_rows=2)) as session:
            for _ in range(2):
                await session.rate(rating="up", question="Why?", answer="So.")
            await wait_for(2)
        async with Session(with_feedback(door, folder, flush_s=0.01)) as session:
            await session.rate(rating="up", question="Why?", answer="So.")
            await wait_for(3)

    asyncio.run(talk())


def test_a_folder_that_fails_keeps_the_rows_and_bounds_them(
    door: Door, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk() -> None:
        opened = with_feedback(door, folder, batch_rows=1, flush_s=1000)
        async with Session(opened) as session:
            folder.rmdir()
            for _ in range(20):
                assert (await session.rate(rating="up", question="Why?", answer="So.")).status_code == 200
                await asyncio.sleep(0)
            assert opened.feedback is not None
            await opened.feedback.files.flush()
            full = await session.rate(rating="up", question="Why?", answer="So.")
            assert (full.status_code, full.json()["error"]["code"]) == (503, "feedback_full")
            assert "retry-after" in full.headers
            folder.mkdir()

    asyncio.run(talk())
    assert len(rows(folder)) == 20
    assert caplog.text.count("cannot be written") == 2  # the first rating, and the flush above: not each rating
    assert "Why?" not in caplog.text


def test_a_rating_during_a_write_that_fails_leaves_one_timer(
    door: Door, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk() -> list[asyncio.TimerHandle]:
        loop = asyncio.get_running_loop()
        set_off, timers = loop.call_later, []

        def call_later(delay: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
            timers.append(set_off(delay, callback, *args))
            return timers[-1]

        opened = with_feedback(door, folder, flush_s=1000)
        assert opened.feedback is not None
        files = opened.feedback.files
        writing, go_on = asyncio.Event(), threading.Event()

        def write(rows: Any) -> None:
            loop.call_soon_threadsafe(writing.set)
            go_on.wait(20)
            raise OSError("no disk")

        async with Session(opened) as session:
            monkeypatch.setattr(files, "_write", write)
            monkeypatch.setattr(loop, "call_later", call_later)
            await session.rate(rating="up", question="Why?", answer="So.")
            flush = asyncio.create_task(files.flush())
            await writing.wait()
            await session.rate(rating="up", question="Why?", answer="So.")
            go_on.set()
            await flush
            monkeypatch.undo()
            return [timer for timer in timers if timer.when() > loop.time() + 100 and not timer.cancelled()]

    assert len(asyncio.run(talk())) == 1
    assert len(rows(folder)) == 2


def test_without_a_folder_there_is_no_such_path(door: Door) -> None:
    async def talk() -> httpx.Response:
        async with Session(door) as session:
            return await session.rate(rating="up", question="Why?", answer="So.")

    assert Feedback.of(ServeConfig().feedback) is None
    response = asyncio.run(talk())
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "rating"),
        ({"rating": "sideways"}, "rating"),
        ({"rating": "up", "completion_id": "x" * 201}, "completion_id"),
        ({"rating": "up", "corrected": "x"}, "corrected"),
        ({"rating": "down", "comment": "x" * 2001}, "comment"),
    ],
)
def test_bad_feedback_names_the_parameter(door: Door, folder: Path, body: dict[str, Any], param: str) -> None:
    async def talk() -> httpx.Response:
        async with Session(with_feedback(door, folder)) as session:
            return await session.rate(**body)

    response = asyncio.run(talk())
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_folder_that_cannot_be_made_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"serve\.feedback\.folder"):
        Feedback(UserFeedbackConfig(folder=str(tmp_path / "file" / "below")))


def test_the_folder_means_the_same_in_every_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = with_absolute_folder(ServeConfig(feedback=UserFeedbackConfig(folder="kept")))
    assert settings.feedback.folder == str(tmp_path / "kept")
    assert with_absolute_folder(ServeConfig()) == ServeConfig()
    remote = ServeConfig(feedback=UserFeedbackConfig(folder="s3://bucket/kept"))
    assert with_absolute_folder(remote) == remote
