"""A generator over the real reference engine and over one that waits: pieces, completions, cancelling, faults."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from ragray.engine.assistant import Citation, Retrieved
from ragray.engine.protocol import Completion, SamplingParams
from ragray.errors import EngineError
from ragray.serve.generator import Generator

RETRIEVED = Retrieved(
    "How?", "en", (Citation(1, "d1", "How?", "So.", "s", 1, 0.1, 0.0, 1, 1.0, 1, 1.0),), 0.9, True, 1.0
)
PARAMS = SamplingParams(max_new_tokens=12)


def test_pieces_joined_are_the_text_of_the_completion(model_folder: Path) -> None:
    from ragray.engine.transformers_runtime import load_model_folder

    engine = load_model_folder(model_folder, batch_size=4, threads=1)
    generator = Generator(engine, 4, 4096)

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
    generator = Generator(engine, 1, 4096)

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
    assert asyncio.run(generator.complete(RETRIEVED, PARAMS)).text == engine.text  # its only reader is free again


def test_a_finished_answer_is_not_cancelled(engine: Any) -> None:
    asyncio.run(Generator(engine, 1, 4096).complete(RETRIEVED, PARAMS))
    assert not engine.handles[0].cancelled.is_set()


def test_a_failing_engine_fails_the_request(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def read(self, timeout_s: float | None = None) -> str | None:
            raise EngineError("the engine failed")

        def cancel(self) -> None:
            pass

    monkeypatch.setattr(engine, "submit", lambda tokens, params: Broken())
    with pytest.raises(EngineError, match="failed"):
        asyncio.run(Generator(engine, 1, 4096).complete(RETRIEVED, PARAMS))


def test_answers_are_read_side_by_side(engine: Any) -> None:
    engine.gate.clear()
    generator = Generator(engine, 4, 4096)

    async def ask_four() -> list[Completion]:
        asked = [asyncio.ensure_future(generator.complete(RETRIEVED, PARAMS)) for _ in range(4)]
        deadline = time.monotonic() + 5
        while len(engine.handles) < 4 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert len(engine.handles) == 4
        engine.gate.set()
        return await asyncio.gather(*asked)

    assert len(asyncio.run(ask_four())) == 4
