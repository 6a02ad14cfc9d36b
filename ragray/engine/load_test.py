"""What an engine does under load: clients that each keep one request running.

In: a loaded engine and prompts. Out: when the tokens of each request came, and how long all took. A closed loop: a
client submits its next request when the one before has ended, so `Load.concurrency` requests run or wait at any time.
"""

from __future__ import annotations

import itertools
import math
import queue
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ragray.engine.protocol import Completion, Engine, SamplingParams
from ragray.errors import EngineError

_GOLDEN = 0.618  # of the text from one prompt's beginning to the next: far apart, however many there are


@dataclass(frozen=True, slots=True)
class Load:
    """One setting of a sweep."""

    concurrency: int
    prompt_tokens: int
    new_tokens: int
    requests: int  # measured ones, over all clients


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """One request's times, in seconds."""

    first_token_s: float  # from submitting it to its first token (TTFT)
    each_token_s: float  # from one token to the next, mean over the answer (TPOT)
    total_s: float  # from submitting it to its last token


@dataclass(frozen=True, slots=True)
class LoadResult:
    """All requests of one load."""

    load: Load
    seconds: float  # from the first request's start to the last one's end
    requests: tuple[RequestTimes, ...]


def run_load(engine: Engine, load: Load, prompts: Sequence[Sequence[int]]) -> LoadResult:
    """Answer all prompts, `load.concurrency` at a time.

    Args:
        engine: must honour `SamplingParams.ignore_stop`.
        load: says how many tokens each answer has.
        prompts: `load.requests` of them.

    Raises:
        EngineError: a request failed, or its answer is shorter, as where the model's context ends.
    """
    params = SamplingParams(max_new_tokens=load.new_tokens, ignore_stop=True)
    waiting: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
    for prompt in prompts:
        waiting.put(prompt)

    def client(_: int) -> list[RequestTimes]:
        found: list[RequestTimes] = []
        while True:
            try:
                prompt = waiting.get_nowait()
            except queue.Empty:
                return found
            found.append(_times(engine.submit(prompt, params).completion(), load))

    began = time.perf_counter()
    with ThreadPoolExecutor(load.concurrency) as clients:
        made = list(clients.map(client, range(load.concurrency)))
    return LoadResult(load, time.perf_counter() - began, tuple(itertools.chain.from_iterable(made)))


def _times(completion: Completion, load: Load) -> RequestTimes:
    tokens, timing, wanted = len(completion.token_ids), completion.timing, load.new_tokens
    if tokens != wanted or timing is None:
        raise EngineError(
            f"an answer of {tokens} tokens to a prompt of {completion.prompt_tokens}, where {wanted} were asked",
            "lower speed.prompt_tokens or speed.new_tokens to what the model's context holds",
        )
    between = (timing.last_token_s - timing.first_token_s) / (tokens - 1)
    return RequestTimes(timing.first_token_s, between, timing.last_token_s)


class Prompts:
    """Prompts of exact lengths out of real text, each of which begins elsewhere, so that no two share a prefix.

    Args:
        text: token ids of the corpus, at least one.
    """

    def __init__(self, text: Sequence[int]) -> None:
        self._text = text
        self._begin = 0
        steps = itertools.count(max(1, round(_GOLDEN * len(text))))
        self._step = next(
            step for step in steps if math.gcd(step, len(text)) == 1
        )  # meets every place before any twice

    def take(self, count: int, length: int) -> list[list[int]]:
        """The next `count` prompts of `length` tokens."""
        return [self._next(length) for _ in range(count)]

    def _next(self, length: int) -> list[int]:
        begin = self._begin
        self._begin = (begin + self._step) % len(self._text)
        return [self._text[(begin + place) % len(self._text)] for place in range(length)]


def sweep(engine: Engine, loads: Iterable[Load], prompts: Prompts) -> Iterator[LoadResult]:
    """Run loads one after the other, each after a request of each client that is not measured."""
    for load in loads:
        before = Load(load.concurrency, load.prompt_tokens, load.new_tokens, load.concurrency)
        run_load(engine, before, prompts.take(before.requests, load.prompt_tokens))
        yield run_load(engine, load, prompts.take(load.requests, load.prompt_tokens))
