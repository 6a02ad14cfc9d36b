"""A generator over the real reference engine and over one that waits: pieces, completions, cancelling, faults."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragray.engine.assistant import Citation, Retrieved, closed_book_tokens, prompt_tokens
from ragray.engine.protocol import Completion, SamplingParams
from ragray.errors import EngineError
from ragray.serve.api import ApiError
from ragray.serve.generator import Generator, HandOver, Pieces

RETRIEVED = Retrieved(
    "How?", "en", (Citation(1, "d1", "How?", "So.", "s", 1, 0.1, 0.0, 1, 1.0, 1, 1.0),), 0.9, True, 1.0
)
PARAMS = SamplingParams(max_new_tokens=12)


def test_pieces_joined_are_the_text_of_the_completion(model_folder: Path) -> None:
    from ragray.engine.transformers_runtime import load_model_folder

    engine = load_model_folder(model_folder, batch_size=4, threads=1)
    generator = Generator(engine, 4096)

    async def read() -> tuple[list[Any], Completion]:
        items = [item async for item in generator.stream(RETRIEVED, PARAMS)]
        return items, await generator.complete(RETRIEVED, PARAMS)

    (*pieces, streamed), whole = asyncio.run(read())
    engine.close()
    assert "".join(pieces) == streamed.text
    assert streamed == whole
    assert len(whole.token_ids) > 0


def test_leaving_a_stream_stops_the_engine_s_work(engine: Any) -> None:
    engine.gate.clear()
    generator = Generator(engine, 4096)

    async def leave() -> None:
        async with aclosing(generator.stream(RETRIEVED, PARAMS)) as items:
            waiting = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(leave())
    assert engine.handles[0].cancelled.is_set()
    engine.gate.set()
    assert asyncio.run(generator.complete(RETRIEVED, PARAMS)).text == engine.text


def test_a_finished_answer_is_not_cancelled(engine: Any) -> None:
    asyncio.run(Generator(engine, 4096).complete(RETRIEVED, PARAMS))
    assert not engine.handles[0].cancelled.is_set()


def test_a_failing_engine_fails_the_request(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def listen(self, listener: Callable[[str | None], None]) -> None:
            listener(None)

        def completion(self) -> Completion:
            raise EngineError("the engine failed")

        def cancel(self) -> None:
            pass

    monkeypatch.setattr(engine, "submit", lambda tokens, params: Broken())
    with pytest.raises(EngineError, match="failed"):
        asyncio.run(Generator(engine, 4096).complete(RETRIEVED, PARAMS))


def test_answers_are_read_side_by_side(engine: Any) -> None:
    engine.gate.clear()
    generator = Generator(engine, 4096)

    async def ask_four() -> list[Completion]:
        asked = [asyncio.ensure_future(generator.complete(RETRIEVED, PARAMS)) for _ in range(4)]
        deadline = time.monotonic() + 5
        while len(engine.handles) < 4 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert len(engine.handles) == 4
        engine.gate.set()
        return await asyncio.gather(*asked)

    assert len(asyncio.run(ask_four())) == 4


def test_a_question_without_passages_is_asked_closed_book(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    submit = engine.submit
    monkeypatch.setattr(engine, "submit", lambda tokens, params: asked.append(tokens) or submit(tokens, params))
    closed = replace(RETRIEVED, citations=())
    for retrieved in (closed, RETRIEVED):
        asyncio.run(Generator(engine, 4096).complete(retrieved, PARAMS))
    assert asked == [closed_book_tokens(engine.tokenizer, "How?"), prompt_tokens(engine.tokenizer, RETRIEVED)]


def test_whoever_waits_for_a_whole_answer_and_leaves_stops_it_too(engine: Any) -> None:
    engine.gate.clear()

    async def leave() -> None:
        waiting = asyncio.ensure_future(Generator(engine, 4096).complete(RETRIEVED, PARAMS))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(leave())
    assert engine.handles[0].cancelled.is_set()


def test_what_threads_hand_over_arrives_whole_and_in_order() -> None:
    async def hand_over(threads: int, pieces: int) -> list[list[str | None]]:
        mail = HandOver(asyncio.get_running_loop())
        queues: list[asyncio.Queue[str | None]] = [asyncio.Queue() for _ in range(threads)]

        def give(queue: asyncio.Queue[str | None]) -> None:
            for number in range(pieces):
                mail.give(queue.put_nowait, str(number))

        givers = [threading.Thread(target=give, args=(queue,)) for queue in queues]
        for giver in givers:
            giver.start()
        return [[await asyncio.wait_for(queue.get(), 30) for _ in range(pieces)] for queue in queues]

    assert asyncio.run(hand_over(4, 2000)) == [[str(number) for number in range(2000)]] * 4


def test_what_is_given_before_the_loop_turns_wakes_it_once() -> None:
    async def count() -> tuple[int, int]:
        loop, seen = asyncio.get_running_loop(), list[str | None]()
        calls = []
        mail = HandOver(loop)
        wake = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args: calls.append(args) or wake(*args)  # type: ignore[method-assign,func-returns-value]
        for _ in range(5):
            mail.give(seen.append, "x")
        await asyncio.sleep(0)
        first = len(calls), len(seen)
        mail.give(seen.append, "y")
        await asyncio.sleep(0)
        assert (len(calls), len(seen)) == (2, 6)
        return first

    assert asyncio.run(count()) == (1, 5)


def test_a_piece_after_the_loop_has_ended_is_dropped() -> None:
    async def made() -> HandOver:
        return HandOver(asyncio.get_running_loop())

    mail = asyncio.run(made())
    mail.give(print, "late")
    mail.give(print, "later")


def test_a_stream_gives_its_first_pieces_at_once_and_the_rest_when_it_ends(engine: Any) -> None:
    async def read(every_s: float) -> list[Any]:
        return [item async for item in Generator(engine, 4096, every_s).stream(RETRIEVED, PARAMS)]

    engine.text = "abc" * 50
    *pieces, completion = asyncio.run(read(3600.0))
    assert 1 <= len(pieces) <= 5  # an hour passes only in name: the end of the answer ends the interval
    assert "".join(pieces) == completion.text == engine.text


def test_pieces_of_one_interval_are_joined() -> None:
    async def read() -> list[str]:
        pieces = Pieces(0.02)
        texts, seen = pieces.texts(), []
        for piece in "[1]a":
            pieces.give(piece)
            seen.append(await anext(texts))
        pieces.give("b")
        pieces.give("c")
        seen.append(await asyncio.wait_for(anext(texts), 10))  # when the interval is over, without an end
        pieces.give("d")
        pieces.give(None)
        return seen + [text async for text in texts]

    assert asyncio.run(read()) == [*"[1]a", "bc", "d"]


def test_more_than_may_run_or_wait_are_refused_until_one_ends(engine: Any) -> None:
    generator = Generator(engine, 4096, most_open=2)

    async def ask() -> list[int]:
        engine.gate.clear()
        asked = [asyncio.ensure_future(generator.complete(RETRIEVED, PARAMS)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await generator.complete(RETRIEVED, PARAMS)
        with pytest.raises(ApiError) as refused_stream:
            await anext(generator.stream(RETRIEVED, PARAMS))
        asked[0].cancel()
        await asyncio.wait(asked[:1])
        engine.gate.set()
        await generator.complete(RETRIEVED, PARAMS)
        await asked[1]
        async with aclosing(generator.stream(RETRIEVED, PARAMS)) as items:
            await anext(items)
        assert len([item async for item in generator.stream(RETRIEVED, PARAMS)]) > 1
        return [refused.value.status, refused_stream.value.status]

    assert asyncio.run(ask()) == [429, 429]
    assert generator._open == 0
