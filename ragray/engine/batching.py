"""Continuous batching around any decoder: requests join and leave between two steps.

In: requests from many threads. Out: their handles. One thread owns the decoder; it takes in what waits,
advances all active sequences by a token, and hands out the text.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ragray.engine.protocol import Completion, FinishReason, SamplingParams, Timing
from ragray.engine.repeats import RepeatWatch
from ragray.engine.tokens import TextStream
from ragray.errors import EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RESTART = "see the log for the cause, then load the engine again"


class Request:
    """One prompt and what has been generated for it."""

    def __init__(self, token_ids: Sequence[int], params: SamplingParams) -> None:
        self.prompt = tuple(token_ids)
        self.params = params
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.error: EngineError | None = None  # why this request cannot be completed
        self._repeats = RepeatWatch() if params.stop_repeats else None
        self._submitted_at = time.perf_counter()
        self._timing: Timing | None = None

    @property
    def ended(self) -> bool:
        """No more tokens will come."""
        return self.finish_reason is not None or self.error is not None

    def push(self, token: int, stops: frozenset[int]) -> None:
        """Take the next token; a stop token, the length limit or a loop ends the request."""
        if token in stops and not self.params.ignore_stop:
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        passed = time.perf_counter() - self._submitted_at
        self._timing = Timing(self._timing.first_token_s if self._timing else passed, passed)
        if len(self.tokens) >= self.params.max_new_tokens:
            self.finish_reason = "length"
        elif self._repeats is not None and self._repeats.loops(self.tokens):
            self.finish_reason = "stop"

    def completion(self, text: str) -> Completion:
        """The finished request as a completion with this text."""
        assert self.finish_reason is not None
        return Completion(tuple(self.tokens), text, self.finish_reason, len(self.prompt), self._timing)


class Decoder(Protocol):
    """What the loop drives. Only the loop's thread calls it."""

    def add(self, requests: Sequence[Request]) -> None:
        """Take requests into the batch."""

    def step(self) -> None:
        """Advance every active request by at least one token, or finish it."""

    def drop(self, request: Request) -> None:
        """Forget an active request."""


class RequestHandle:
    """A request's reader side: see `protocol.Handle`."""

    def __init__(self, request: Request, tokenizer: PreTrainedTokenizerBase) -> None:
        self.request = request
        self.cancelled = False
        self._stream = TextStream(tokenizer)
        self._streamed = 0
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._put: Callable[[str | None], None] = self._pieces.put
        self._changing = threading.Lock()  # of `_put`
        self._text: list[str] = []
        self._ended = threading.Event()
        self._error: EngineError | None = None

    def read(self, timeout_s: float | None = None) -> str | None:
        """The next piece of text, or None at the end."""
        try:
            piece = self._pieces.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no text within {timeout_s} s") from None
        if piece is None:
            self._pieces.put(None)  # every later read ends, too
            if self._error is not None:
                raise self._error
        return piece

    def listen(self, listener: Callable[[str | None], None]) -> None:
        """Give the listener each piece in place of `read`, and None at the end."""
        with self._changing:
            while not self._pieces.empty():
                listener(self._pieces.get())
            self._put = listener

    def cancel(self) -> None:
        """Stop at the next step."""
        self.cancelled = True

    def completion(self) -> Completion:
        """Wait for the end and return the whole."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self.request.completion("".join(self._text))

    def advance(self) -> int:
        """Hand out what the decoder has added since the last call; the number of those tokens."""
        fresh = self.request.tokens[self._streamed :]
        self._streamed += len(fresh)
        self._give(self._stream.push(fresh))
        if self.request.error is not None:
            self.fail(self.request.error)
        elif self.request.finish_reason is not None:
            self._give(self._stream.flush())
            self._end()
        return len(fresh)

    def fail(self, error: EngineError) -> None:
        """End with an error for the reader."""
        self._error = error
        self._end()

    def _give(self, piece: str) -> None:
        if piece:
            self._text.append(piece)
            with self._changing:
                self._put(piece)

    def _end(self) -> None:
        self._ended.set()
        with self._changing:
            self._put(None)


class BatchingLoop:
    """The thread that owns a decoder; at most `max_active` requests are in the batch, others wait in order."""

    def __init__(self, decoder: Decoder, tokenizer: PreTrainedTokenizerBase, max_active: int) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._max_active = max_active
        self._wake = threading.Condition()
        self._waiting: deque[RequestHandle] = deque()
        self._active: list[RequestHandle] = []
        self._closed = False
        self._failure: EngineError | None = None
        self._counts = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self._thread = threading.Thread(target=self._run, name="ragray-engine", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> list[RequestHandle]:
        """Queue requests; those of one call join the batch together.

        Raises:
            EngineError: the engine failed or is closed.
        """
        handles = [RequestHandle(request, self._tokenizer) for request in requests]
        with self._wake:
            if self._closed:
                raise self._failure or EngineError("the engine is closed", _RESTART)
            self._waiting.extend(handles)
            self._counts["requests"] += len(handles)
            self._counts["prompt_tokens"] += sum(len(request.prompt) for request in requests)
            self._wake.notify()
        return handles

    def stats(self) -> dict[str, float]:
        """Counts since the start, and how many requests run or wait now."""
        with self._wake:
            return {**self._counts, "active": float(len(self._active)), "waiting": float(len(self._waiting))}

    def close(self) -> None:
        """Stop the thread; requests that are not finished end with an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take_in():
                self._decoder.step()
                self._hand_out()
        except BaseException as error:
            self._failure = EngineError(f"the engine failed: {error}", _RESTART)
            self._end_all(self._failure)
            raise
        self._end_all(EngineError("the engine was closed", _RESTART))

    def _take_in(self) -> bool:
        """Wait for work and bring the batch up to date; False when closed."""
        while True:
            with self._wake:
                while not self._closed and not self._waiting and not self._active:
                    self._wake.wait()
                if self._closed:
                    return False
                free = self._max_active - len(self._active)
                joining = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
                self._active.extend(joining)
            for handle in joining:
                if handle.cancelled:
                    handle.request.finish_reason = "cancelled"
            self._decoder.add([h.request for h in joining if not h.request.ended])
            self._drop_cancelled()
            self._hand_out()
            if self._active:
                return True

    def _drop_cancelled(self) -> None:
        for handle in self._active:
            if handle.cancelled and not handle.request.ended:
                self._decoder.drop(handle.request)
                handle.request.finish_reason = "cancelled"

    def _hand_out(self) -> None:
        tokens = sum(handle.advance() for handle in self._active)
        with self._wake:
            self._counts["completion_tokens"] += tokens
            self._active = [h for h in self._active if not h.request.ended]

    def _end_all(self, error: EngineError) -> None:
        with self._wake:
            self._closed = True
            left = [*self._active, *self._waiting]
            self._active, self._waiting = [], deque()
        for handle in left:
            handle.fail(error)


def checked_request(
    token_ids: Sequence[int], params: SamplingParams, context: int, adapters: Collection[str] = ()
) -> Request:
    """A request whose answer fits the model.

    Args:
        token_ids: the prompt.
        params: `max_new_tokens` is lowered to what the context leaves.
        context: tokens that the model can read and write together.
        adapters: those that the engine has.

    Raises:
        EngineError: the prompt is empty, or leaves no room for an answer; the engine has no such adapter.
    """
    if params.adapter is not None and params.adapter not in adapters:
        raise EngineError(
            f"no adapter {params.adapter!r}", f"name one of: {', '.join(sorted(adapters)) or 'none is loaded'}"
        )
    room = context - len(token_ids)
    if not token_ids or room < 1:
        raise EngineError(
            f"a prompt of {len(token_ids)} tokens; the model takes 1 to {context - 1}",
            "shorten the question, or lower retrieval.prompt_passage_chars",
        )
    return Request(token_ids, replace(params, max_new_tokens=min(params.max_new_tokens, room)))
