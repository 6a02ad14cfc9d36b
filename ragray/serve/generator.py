"""Generation as a part of the served application.

In: what was retrieved and the sampling parameters. Out: pieces of text as the engine makes them, and the
completion. `Generator` is a plain class over any `Engine`; `RemoteGenerator` is the same interface over a
deployment handle. Whoever stops reading stops the engine's work on that answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, cast

from ragray.config import EngineConfig
from ragray.engine.assistant import Retrieved, prompt_tokens
from ragray.engine.protocol import Completion, Engine, Handle, SamplingParams
from ragray.serve.api import ApiError
from ragray.serve.artifacts import open_artifact
from ragray.serve.calls import streaming, unary

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator


class Generation(Protocol):
    """What the ingress asks of a generator, wherever it runs."""

    def stream(self, retrieved: Retrieved, params: SamplingParams) -> AsyncGenerator[str | Completion, None]:
        """Pieces of the answer, then its completion."""

    async def complete(self, retrieved: Retrieved, params: SamplingParams) -> Completion:
        """The whole answer."""

    async def ready(self) -> bool:
        """True once answers can be generated."""


class Generator:
    """One engine that all requests of a replica share: each joins the running batch.

    Args:
        engine: a loaded engine.
        max_batch_size: answers made at once, each read by a thread of its own.
        context_tokens: prompt and answer together that the model can hold.
    """

    def __init__(self, engine: Engine, max_batch_size: int, context_tokens: int) -> None:
        self._engine = engine
        self._context_tokens = context_tokens
        self._readers = ThreadPoolExecutor(max_batch_size, thread_name_prefix="read-answer")

    async def stream(self, retrieved: Retrieved, params: SamplingParams) -> AsyncGenerator[str | Completion, None]:
        """Pieces of the answer, then its completion. Pieces that wait are joined."""
        handle = self._engine.submit(self._prompt(retrieved), params)
        finished = False
        try:
            async for piece in self._pieces(handle):
                yield piece
            finished = True
            yield handle.completion()
        finally:
            if not finished:
                handle.cancel()

    async def complete(self, retrieved: Retrieved, params: SamplingParams) -> Completion:
        """The whole answer."""
        async with aclosing(self.stream(retrieved, params)) as items:
            async for item in items:
                if isinstance(item, Completion):
                    return item
        raise AssertionError("a stream ends with its completion")

    async def ready(self) -> bool:
        """True once answers can be generated."""
        return True

    def _prompt(self, retrieved: Retrieved) -> list[int]:
        tokens = prompt_tokens(self._engine.tokenizer, retrieved)
        if len(tokens) >= self._context_tokens:
            raise ApiError(
                400,
                f"the question and its passages take {len(tokens)} tokens; the model holds {self._context_tokens}",
                param="messages",
                code="context_length_exceeded",
            )
        return tokens

    async def stats(self) -> dict[str, float]:
        """The engine's counts: requests, active, prompt_tokens, completion_tokens."""
        return self._engine.stats()

    async def _pieces(self, handle: Handle) -> AsyncGenerator[str, None]:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[str | None] = asyncio.Queue()

        def pump() -> None:
            try:
                while (piece := handle.read()) is not None:
                    loop.call_soon_threadsafe(waiting.put_nowait, piece)
            finally:
                loop.call_soon_threadsafe(waiting.put_nowait, None)

        reader = self._readers.submit(pump)
        ended = False
        while not ended:
            items = [await waiting.get()]
            while not waiting.empty():
                items.append(waiting.get_nowait())
            ended = items[-1] is None
            if text := "".join(item for item in items if item is not None):
                yield text
        await asyncio.wrap_future(reader)  # raises what the engine raised


class GeneratorReplica(Generator):
    """A generator that opens its engine itself.

    Args:
        engine_uri: an `engine` artifact.
        settings: threads, batch size and memory of the engine.

    Raises:
        ArtifactError: the artifact is missing or damaged.
        EngineError: the engine does not run on this device.
    """

    def __init__(self, engine_uri: str, settings: EngineConfig) -> None:
        from ragray.engine.manifest import EngineManifest
        from ragray.engine.runtime import load_engine

        folder = open_artifact(engine_uri, "engine").folder
        context_tokens = EngineManifest.read(folder).model.context_tokens
        super().__init__(load_engine(folder, settings), settings.max_batch_size, context_tokens)


class RemoteGenerator:
    """A `Generator` behind a deployment handle."""

    def __init__(self, handle: DeploymentHandle[Generator]) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    async def stream(self, retrieved: Retrieved, params: SamplingParams) -> AsyncGenerator[str | Completion, None]:
        """Pieces of the answer, then its completion."""
        response = self._streaming.stream.remote(retrieved, params)
        async with aclosing(streaming(cast("DeploymentResponseGenerator[Any]", response))) as items:
            async for item in items:
                yield item

    async def complete(self, retrieved: Retrieved, params: SamplingParams) -> Completion:
        """The whole answer."""
        completion: Completion = await unary(self._handle.complete.remote(retrieved, params))
        return completion

    async def ready(self) -> bool:
        """True once answers can be generated."""
        return bool(await unary(self._handle.ready.remote()))
