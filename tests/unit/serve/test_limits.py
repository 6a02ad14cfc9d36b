"""Token buckets, quotas and leases: what passes, when the next one passes, and what is given back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.config_limits import LimitsConfig
from ragray.engine.assistant import Answer
from ragray.serve.api import ApiError
from ragray.serve.chat import Reply
from ragray.serve.keys import ApiKey
from ragray.serve.limits import Bucket, Ledger, LocalAccounts, Quota, Refusal, RequestContext


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


LEASES = map(str, itertools.count())


def entered(ledger: Ledger, quota: Quota, name: str = "ann") -> bool:
    return ledger.enter(name, quota, next(LEASES)) is None


def test_a_full_bucket_gives_a_minute_s_worth_and_then_one_by_one() -> None:
    clock = Clock()
    ledger, quota = Ledger(60, clock), Quota(requests_per_minute=6)
    assert [entered(ledger, quota) for _ in range(7)] == [True] * 6 + [False]
    refusal = ledger.enter("ann", quota, "lease")
    assert refusal is not None and refusal.wait_s == pytest.approx(10.0)  # six a minute: one in 10 s
    assert refusal.error().retry_after_s == 10 and refusal.error().status == 429
    clock.now += 9.99
    assert not entered(ledger, quota)
    clock.now += 0.01
    assert [entered(ledger, quota), entered(ledger, quota)] == [True, False]


def test_a_new_account_is_full_however_the_clock_ticks() -> None:
    ticks = itertools.count(1000.0, 0.001)
    ledger, quota = Ledger(60, lambda: next(ticks)), Quota(requests_per_minute=1, tokens_per_minute=1)
    assert entered(ledger, quota) and ledger.reserve("ann", quota, 1) is None


def test_keys_do_not_share_their_quota() -> None:
    ledger, quota = Ledger(60, Clock()), Quota(requests_per_minute=1)
    assert [entered(ledger, quota, name) for name in ("ann", "ann", "bob")] == [True, False, True]


@settings(deadline=None)
@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 150)), max_size=60),
)
def test_no_window_passes_more_than_its_length_and_one_minute_allow(rate: int, asked: list[tuple[float, int]]) -> None:
    bucket, now = Bucket(rate, 0.0), 0.0
    passed: list[tuple[float, float]] = []
    for pause, amount in asked:
        now += pause
        amount = min(amount, rate)
        if not bucket.wait_for(amount, now):
            bucket.take(amount, now)
            passed.append((now, amount))
    for first in range(len(passed)):
        total = 0.0
        for end, amount in passed[first:]:
            total += amount
            assert total <= rate * (1 + (end - passed[first][0]) / 60) + 1e-6


@settings(deadline=None)
@given(st.integers(1, 1000), st.lists(st.integers(1, 2000), min_size=1, max_size=20))
def test_who_waits_as_long_as_retry_after_says_passes(rate: int, amounts: list[int]) -> None:
    bucket, now = Bucket(rate, 0.0), 0.0
    for amount in amounts:
        if wait_s := bucket.wait_for(amount, now):
            now += Refusal("", wait_s).error().retry_after_s or 0
            assert bucket.wait_for(amount, now) == 0.0
        bucket.take(min(amount, rate), now)


def test_retry_after_is_a_whole_number_of_seconds_and_never_too_short() -> None:
    for wait_s, shown in ((0.001, 1), (1.0, 1), (1.001, 2), (59.2, 60)):
        assert Refusal("x", wait_s).error().retry_after_s == shown


def test_places_are_given_back_and_lapse() -> None:
    clock = Clock()
    ledger, quota = Ledger(30, clock), Quota(concurrency=2)
    assert ledger.enter("ann", quota, "first") is None and ledger.enter("ann", quota, "second") is None
    refusal = ledger.enter("ann", quota, "third")
    assert refusal is not None and refusal.error().retry_after_s == 1
    ledger.leave("ann", "third")  # it never had a place
    ledger.leave("ann", "first")
    ledger.leave("ann", "first")  # twice counts once
    assert [entered(ledger, quota), entered(ledger, quota)] == [True, False]
    clock.now += 30  # whoever took them is gone
    assert [entered(ledger, quota) for _ in range(3)] == [True, True, False]


def test_a_refused_request_costs_nothing() -> None:
    clock = Clock()
    ledger, quota = Ledger(60, clock), Quota(requests_per_minute=2, concurrency=1)
    assert ledger.enter("ann", quota, "lease") is None
    assert [entered(ledger, quota) for _ in range(10)] == [False] * 10
    ledger.leave("ann", "lease")
    assert entered(ledger, quota)


def test_a_new_rate_counts_at_once() -> None:
    ledger = Ledger(60, Clock())
    assert [entered(ledger, Quota(requests_per_minute=1)) for _ in range(2)] == [True, False]
    assert [entered(ledger, Quota(requests_per_minute=2)) for _ in range(3)] == [True, True, False]
    assert entered(ledger, Quota())


def test_a_key_s_own_quota_goes_before_the_server_s() -> None:
    limits = LimitsConfig(requests_per_minute=10, concurrency=4)
    key = ApiKey(name="ann", sha256="0" * 64, requests_per_minute=3, tokens_per_minute=100)
    assert Quota.of(key, limits) == (3, 100, 4)
    assert Quota.of(None, limits) == (10, None, 4)
    assert Quota.of(None, limits).limits_something and not Quota.of(None, LimitsConfig()).limits_something


def reply(prompt_tokens: int, completion_tokens: int, cache: Any = "miss") -> Reply:
    answer = Answer("text", (), False, "", 1.0, prompt_tokens, completion_tokens)
    return Reply(answer, "stop", cache, {})


def context(quota: Quota, clock: Clock) -> RequestContext:
    return RequestContext("ann", "id", quota, LocalAccounts(Ledger(60, clock)))


def tokens_left(asking: RequestContext, most: int) -> int:
    """The largest reservation that passes now."""
    for tokens in range(most, 0, -1):
        try:
            asyncio.run(asking.reserve("", tokens))
        except ApiError:
            continue
        asyncio.run(asking.refund())
        return tokens
    return 0


def test_an_answer_costs_its_tokens_not_what_was_reserved() -> None:
    clock = Clock()
    asking = context(Quota(tokens_per_minute=100), clock)
    asyncio.run(asking.reserve("why?", 50))
    assert asking.reserved == 54
    asyncio.run(asking.settle(reply(20, 7)))
    assert (asking.prompt_tokens, asking.completion_tokens, asking.reserved) == (20, 7, 0)
    assert tokens_left(asking, 100) == 73


def test_an_answer_longer_than_reserved_makes_the_next_one_wait() -> None:
    clock = Clock()
    asking = context(Quota(tokens_per_minute=60), clock)
    asyncio.run(asking.reserve("", 60))
    asyncio.run(asking.settle(reply(80, 40)))  # 60 below nothing: one token a second
    with pytest.raises(ApiError) as refused:
        asyncio.run(asking.reserve("", 10))
    assert refused.value.retry_after_s == 70
    clock.now += 70
    asyncio.run(asking.reserve("", 10))


@pytest.mark.parametrize("cache", ["hit", "semantic"])
def test_an_answer_from_the_cache_costs_nothing_and_is_logged_whole(cache: str) -> None:
    asking = context(Quota(tokens_per_minute=100), Clock())
    asyncio.run(asking.reserve("", 50))
    asyncio.run(asking.settle(reply(20, 7, cache)))
    assert tokens_left(asking, 100) == 100 and asking.prompt_tokens == 20


def test_a_question_that_may_need_more_than_a_minute_s_worth_waits_for_a_full_account() -> None:
    asking = context(Quota(tokens_per_minute=100), Clock())
    asyncio.run(asking.reserve("", 5000))
    assert asking.reserved == 100
    with pytest.raises(ApiError):
        asyncio.run(asking.reserve("", 1))


@pytest.mark.parametrize("events_read", [1, 2, 3])
def test_a_stream_is_charged_at_its_end_and_a_left_one_as_reserved(events_read: int) -> None:
    asking = context(Quota(tokens_per_minute=100), Clock())
    closed: list[bool] = []

    async def events() -> AsyncGenerator[str | Reply, None]:
        try:
            yield "te"
            yield "xt"
            yield reply(20, 7)
        finally:
            closed.append(True)

    async def read() -> None:
        await asking.reserve("", 50)
        stream = asking.settled(events())
        for _ in range(events_read):
            await anext(stream)
        await stream.aclose()

    asyncio.run(read())
    assert closed == [True]
    assert tokens_left(asking, 100) == (73 if events_read == 3 else 50)
