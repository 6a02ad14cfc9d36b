"""Generation as a part of the served application.

In: what was retrieved and the sampling parameters. Out: pieces of text as the engine makes them, and the
completion. `Generator` is a plain class over any `Engine`; `RemoteGenerator` is the same interface over a
deployment handle. Whoever stops reading stops the engine's work on that answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ragray.config import EngineConfig
from ragray.engine.assistant import Retrieved, closed_book_tokens, prompt_tokens
from ragray.engine.protocol import Completion, Engine, Handle, SamplingParams
from ragray.serve.api import ApiError, busy
from ragray.serve.artifacts import open_artifact
from ragray.serve.calls import streaming, unary
from ragray.serve.metrics import serving_metrics
from ragray.serve.stopping import StoppingHandle

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from ragray.serve.artifacts import Served
    from ragray.serve.replicas import GeneratorReplica


_AT_ONCE = 4  # texts: the first ones may be the mark of a passage, which is not shown
WAITING_BATCHES = 4  # answers that may wait for a generator, in full batches
_TRIAL = "Hello"  # a question that a new engine is tried with
_WRITES = ("engine", "model", "adapter")


class Generation(Protocol):
    """What the ingress asks of a generator, wherever it runs."""

    def stream(
        self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str] = ()
    ) -> AsyncGenerator[str | Completion, None]:
        """Pieces of the answer, which ends before any of the strings `stop`, then its completion."""

    async def complete(self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str] = ()) -> Completion:
        """The whole answer."""

    async def ready(self) -> bool:
        """True once answers can be generated."""


class Generator:
    """One engine that all requests of a replica share: each joins the running batch.

    Args:
        engine: a loaded engine.
        context_tokens: prompt and answer together that the model can hold.
        stream_every_s: least time between two pieces of one stream, seconds.
        most_open: answers that run or wait at once; more are refused. None: whoever calls bounds them.
        watch: hears "begun" and "ended" of each answer.
        lineage: digests of what writes here; each answer carries them.
        adapters: those of the adapters of further models, by id.
    """

    def __init__(
        self,
        engine: Engine,
        context_tokens: int,
        stream_every_s: float = 0.0,
        most_open: int | None = None,
        watch: Callable[[str], None] = lambda event: None,
        lineage: Mapping[str, str] | None = None,
        adapters: Mapping[str, str] | None = None,
    ) -> None:
        self._watch = watch
        self._lineage, self._adapters = dict(lineage or {}), dict(adapters or {})
        self._engine = engine
        self._every_s = stream_every_s
        self._most_open = most_open
        self._open = 0
        self._context_tokens = context_tokens
        self._mail: HandOver | None = None

    async def stream(
        self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str] = ()
    ) -> AsyncGenerator[str | Completion, None]:
        """Pieces of the answer, then its completion. Pieces that wait are joined."""
        pieces = Pieces(self._every_s)
        handle = self._submit(retrieved, params, stop)
        handle.listen(partial(self._hand_over().give, pieces.give))
        finished = False
        try:
            async for text in pieces.texts():
                yield text
            finished = True
            yield self._told(handle, params)
        finally:
            self._left()
            if not finished:
                handle.cancel()

    async def complete(self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str] = ()) -> Completion:
        """The whole answer."""
        ended = asyncio.Event()
        hand_over = self._hand_over()
        handle = self._submit(retrieved, params, stop)
        handle.listen(lambda piece: hand_over.give(lambda _: ended.set(), None) if piece is None else None)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            handle.cancel()
            raise
        finally:
            self._left()
        return self._told(handle, params)

    async def ready(self) -> bool:
        """True once answers can be generated."""
        return True

    def _submit(self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str]) -> Handle:
        """A request that runs or waits; whoever has it counts `_open` down at its end.

        Raises:
            ApiError: 429, too many run or wait; 400, the prompt is too long.
        """
        if self._most_open is not None and self._open >= self._most_open:
            raise busy()
        handle = self._engine.submit(self._prompt(retrieved), params)
        self._open += 1
        self._watch("begun")
        return StoppingHandle(handle, stop, self._engine.tokenizer) if stop else handle

    def _told(self, handle: Handle, params: SamplingParams) -> Completion:
        """The completion, and what wrote it; raises what the engine raised."""
        name = params.adapter
        of_adapter = {"adapter": self._adapters[name]} if name in self._adapters else {}
        return replace(handle.completion(), lineage={**self._lineage, **of_adapter})

    def close(self) -> bool:
        """Free the model; False where an answer still runs."""
        if self._open:
            return False
        self._engine.close()
        return True

    def _left(self) -> None:
        self._open -= 1
        self._watch("ended")

    def _prompt(self, retrieved: Retrieved) -> list[int]:
        tokenizer = self._engine.tokenizer
        if retrieved.citations:
            tokens = prompt_tokens(tokenizer, retrieved)
        else:  # there is no index
            tokens = closed_book_tokens(tokenizer, retrieved.question)
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

    def _hand_over(self) -> HandOver:
        loop = asyncio.get_running_loop()
        if self._mail is None or self._mail.loop is not loop:
            self._mail = HandOver(loop)
        return self._mail


class HandOver:
    """Brings pieces from the engine's thread into an event loop: one wake-up for all that a step of the batch made."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[tuple[Callable[[str | None], None], str | None]] = deque()
        self._is_called = False  # and has not begun to empty the queue

    def give(self, see: Callable[[str | None], None], piece: str | None) -> None:
        """Let `see` have a piece, soon, in the loop. Any thread may call this."""
        self._waiting.append((see, piece))
        if not self._is_called:
            self._is_called = True
            try:
                self.loop.call_soon_threadsafe(self._empty)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._waiting.clear()
                self._is_called = False

    def _empty(self) -> None:
        self._is_called = False  # first: what comes from now on calls again, so nothing is left lying
        while self._waiting:
            see, piece = self._waiting.popleft()
            see(piece)


class Pieces:
    """The pieces of one answer, joined: the first few at once, then those of each interval, and the rest at the end.

    Each text costs a message between replicas and an event of the stream, which with a small model is more than the
    tokens in it cost; nobody reads faster than a few times a second.

    Args:
        every_s: least time between two texts, seconds.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._waiting: list[str] = []
        self._ready = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0  # of the loop's clock
        self._at_once = _AT_ONCE
        self._ended = False

    def give(self, piece: str | None) -> None:
        """Take the next piece, None at the end; called in the loop."""
        if piece is None:
            self._ended = True
            self._ready.set()
            return
        self._waiting.append(piece)
        if self._timer is None and not self._ready.is_set():
            if self._loop.time() >= self._next_at:
                self._ready.set()
            else:
                self._timer = self._loop.call_at(self._next_at, self._due)

    async def texts(self) -> AsyncGenerator[str, None]:
        """The joined texts until the end."""
        ended = False
        while not ended:
            await self._ready.wait()
            self._ready.clear()
            ended = self._ended
            text = "".join(self._waiting)
            self._waiting.clear()
            self._at_once -= 1
            if self._at_once <= 0:
                self._next_at = self._loop.time() + self._every_s
            if text:
                yield text

    def _due(self) -> None:
        self._timer = None
        self._ready.set()


def open_generator(
    served: Served, settings: EngineConfig, stream_every_s: float, most_open: int | None = None
) -> Generator:
    """Load the engine of a release, and have it write a token.

    Args:
        served: names the engine, and the adapters of further models.
        settings: threads, batch size and memory of the engine.
        stream_every_s: least time between two pieces of one stream, seconds.
        most_open: answers that run or wait at once; more are refused. None: whoever calls bounds them.

    Raises:
        ArtifactError: an artifact is missing or damaged.
        EngineError: the engine does not run on this device.
    """
    from ragray.engine.manifest import EngineManifest
    from ragray.serve.adapters import load_adapted

    assert served.engine is not None
    artifact = open_artifact(served.engine, "engine")
    context_tokens = EngineManifest.read(artifact.folder).model.context_tokens
    engine = load_adapted(artifact, settings, served.adapters)
    engine.generate([closed_book_tokens(engine.tokenizer, _TRIAL)], SamplingParams(max_new_tokens=1))
    lineage = {name: digest for name, digest in served.lineage.items() if name in _WRITES}
    watch = serving_metrics().generation
    return Generator(engine, context_tokens, stream_every_s, most_open, watch, lineage, served.adapter_digests)


class RemoteGenerator:
    """The generator of a release behind a deployment handle.

    Args:
        handle: of the deployment.
        release: number of the release.
    """

    def __init__(self, handle: DeploymentHandle[GeneratorReplica], release: int) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)
        self._release = release

    async def stream(
        self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str] = ()
    ) -> AsyncGenerator[str | Completion, None]:
        """Pieces of the answer, then its completion."""
        method = self._streaming.stream.remote
        async with aclosing(streaming(method, retrieved, params, tuple(stop), self._release)) as items:
            async for item in items:
                yield item

    async def complete(self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str] = ()) -> Completion:
        """The whole answer."""
        method = self._handle.complete.remote
        completion: Completion = await unary(method, retrieved, params, tuple(stop), self._release)
        return completion

    async def ready(self) -> bool:
        """True once answers can be generated."""
        return bool(await unary(self._handle.ready.remote, self._release))


def no_generator() -> ApiError:
    """What a server that only searches says to whoever wants an answer. Not 5xx: a client would ask again."""
    return ApiError(404, "this server has no generator; it only answers POST /v1/search", code="not_served")


class NoGenerator:
    """Stands for a generator in a server that only searches."""

    async def stream(
        self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str] = ()
    ) -> AsyncGenerator[str | Completion, None]:
        """Refuses.

        Raises:
            ApiError: always.
        """
        yield await self.complete(retrieved, params, stop)

    async def complete(self, retrieved: Retrieved, params: SamplingParams, stop: Sequence[str] = ()) -> Completion:
        """Refuses.

        Raises:
            ApiError: always.
        """
        raise no_generator()

    async def ready(self) -> bool:
        """True: there is nothing to wait for."""
        return True
