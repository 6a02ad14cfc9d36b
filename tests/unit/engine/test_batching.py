"""The batching loop, driven by a decoder that counts: token n of a request is n."""

import threading
from collections.abc import Iterator, Sequence

import pytest
from tiny_model import make_tokenizer

from ragray.engine.batching import BatchingLoop, Request
from ragray.engine.protocol import SamplingParams
from ragray.errors import EngineError


class CountingDecoder:
    """Emits tokens 10, 11, ... one a step; `gate` holds steps back, `fail` breaks the next one."""

    def __init__(self) -> None:
        self.active: list[Request] = []
        self.most_active = 0
        self.gate = threading.Event()
        self.gate.set()
        self.fail = False

    def add(self, requests: Sequence[Request]) -> None:
        self.active.extend(requests)
        self.most_active = max(self.most_active, len(self.active))

    def step(self) -> None:
        self.gate.wait(10)
        if self.fail:
            raise MemoryError("out of memory")
        for request in self.active:
            request.push(10 + len(request.tokens), frozenset())
        self.active = [request for request in self.active if not request.ended]

    def drop(self, request: Request) -> None:
        self.active.remove(request)


@pytest.fixture
def decoder() -> CountingDecoder:
    return CountingDecoder()


@pytest.fixture
def loop(decoder: CountingDecoder) -> Iterator[BatchingLoop]:
    loop = BatchingLoop(decoder, make_tokenizer(), max_active=3)
    yield loop
    decoder.gate.set()
    loop.close()


def request(tokens: int) -> Request:
    return Request([1, 2], SamplingParams(max_new_tokens=tokens))


def test_requests_wait_for_a_free_place_and_all_finish(loop: BatchingLoop, decoder: CountingDecoder) -> None:
    handles = loop.submit([request(n) for n in (5, 1, 4, 2, 3, 6)])
    lengths = [len(handle.completion().token_ids) for handle in handles]
    assert lengths == [5, 1, 4, 2, 3, 6]
    assert decoder.most_active == 3
    assert handles[0].completion().token_ids == (10, 11, 12, 13, 14)


def test_stats_count_requests_and_tokens(loop: BatchingLoop) -> None:
    for handle in loop.submit([request(5), request(3)]):
        handle.completion()
    stats = loop.stats()
    assert (stats["requests"], stats["prompt_tokens"], stats["completion_tokens"]) == (2, 4, 8)


def test_a_cancelled_request_keeps_its_text_and_leaves_the_batch(loop: BatchingLoop, decoder: CountingDecoder) -> None:
    handle, other = loop.submit([request(100_000), request(50)])
    first = handle.read()
    handle.cancel()
    completion = handle.completion()
    assert completion.finish_reason == "cancelled"
    assert completion.text.startswith(first)
    assert 1 <= len(completion.token_ids) < 100_000
    assert len(other.completion().token_ids) == 50
    assert decoder.active == []


def test_a_request_cancelled_before_it_started_never_reaches_the_decoder(
    loop: BatchingLoop, decoder: CountingDecoder
) -> None:
    decoder.gate.clear()
    running = loop.submit([request(2)])[0]
    waiting = loop.submit([request(2)])[0]
    waiting.cancel()
    decoder.gate.set()
    assert waiting.completion().token_ids == ()
    assert running.completion().finish_reason == "length"


def test_reading_gives_up_after_its_time(loop: BatchingLoop, decoder: CountingDecoder) -> None:
    decoder.gate.clear()
    handle = loop.submit([request(2)])[0]
    with pytest.raises(TimeoutError):
        handle.read(0.01)


def test_closing_ends_unfinished_requests_with_an_error(loop: BatchingLoop) -> None:
    handle = loop.submit([request(10_000_000)])[0]
    handle.read()
    loop.close()
    with pytest.raises(EngineError, match="closed"):
        handle.completion()
    with pytest.raises(EngineError, match="closed"):
        loop.submit([request(1)])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failed_step_reaches_every_reader_and_later_requests(loop: BatchingLoop, decoder: CountingDecoder) -> None:
    decoder.fail = True
    handle = loop.submit([request(3)])[0]
    with pytest.raises(EngineError, match="out of memory"):
        list(iter(handle.read, None))
    with pytest.raises(EngineError, match="out of memory"):
        loop.submit([request(3)])
