"""How much each caller may ask: requests and tokens by the minute, and requests at once.

In: the name of a key, its quota, and what a request wants. Out: a place, or how long to wait for one. `Ledger` counts,
in the process of the ingress or in an actor (`shared_limits`). The names are those of the keys file, so what a ledger
holds is bounded by it.

Rates are token buckets: an account holds at most one minute's worth and is filled evenly. So in T seconds at most
(1 + T / 60) times the rate passes, also in bursts. Source: Turner 1986, "New directions in communications", IEEE
Communications Magazine 24(10).
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ragray.config_limits import LimitsConfig
from ragray.serve.api import ApiError

if TYPE_CHECKING:
    from ragray.serve.chat import Reply
    from ragray.serve.keys import ApiKey

ANYONE = ""  # the account of those who ask without a key
_MINUTE_S = 60.0


class Quota(NamedTuple):
    """What one account may do; None: as much as it likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None

    @classmethod
    def of(cls, key: ApiKey | None, limits: LimitsConfig) -> Quota:
        """A key's own quota, with the server's where it has none."""
        return cls(*(getattr(key, name, None) or getattr(limits, name) for name in cls._fields))

    @property
    def limits_something(self) -> bool:
        """False where nothing needs to be counted."""
        return any(limit is not None for limit in self)

    @property
    def limits_requests(self) -> bool:
        """Whether requests are counted, not tokens alone."""
        return self.requests_per_minute is not None or self.concurrency is not None


class Refusal(NamedTuple):
    """Why a request has to wait, and how long, seconds."""

    reason: str
    wait_s: float

    def error(self) -> ApiError:
        """The answer for the client; `Retry-After` is rounded up, so that who heeds it passes."""
        wait_s = max(1, math.ceil(self.wait_s))
        return ApiError(429, f"{self.reason}; try again in {wait_s} s", code="rate_limited", retry_after_s=wait_s)


class Bucket:
    """A token bucket that begins full.

    Args:
        per_minute: what flows in each minute, and the most that it holds.
        now: seconds of any clock that never goes back.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._filled = now

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken; 0: now. No more than what it holds when full is waited for."""
        self._fill(now)
        missing = min(amount, self.per_minute) - self._level
        return missing * _MINUTE_S / self.per_minute if missing > 1e-9 else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, negative to give back; the level may fall below nothing, and who comes next waits."""
        self._fill(now)
        self._level = min(self._level - amount, float(self.per_minute))

    def _fill(self, now: float) -> None:
        inflow = (now - self._filled) * self.per_minute / _MINUTE_S
        self._level = min(self._level + inflow, float(self.per_minute))
        self._filled = now


@dataclass(slots=True)
class _Account:
    requests: Bucket | None = None
    tokens: Bucket | None = None
    open: dict[str, float] = field(default_factory=dict)  # lease -> when it ends by itself


class Ledger:
    """The accounts of all keys.

    Args:
        lease_s: after which a request is counted as gone, whatever became of it; above any deadline.
        clock: seconds that never go back.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def enter(self, name: str, quota: Quota, lease: str) -> Refusal | None:
        """Let one more request in (None), or say why it has to wait, which costs nothing.

        `lease` is this request's alone; who asked for it gives it to `leave`.
        """
        now = self._clock()
        account = self._account(name, quota, now)
        if quota.concurrency is not None:
            for ended in [held for held, ends in account.open.items() if ends <= now]:
                del account.open[ended]
            if len(account.open) >= quota.concurrency:
                return Refusal(f"this key may have {quota.concurrency} requests at once", 1.0)
        if account.requests is not None:
            if wait_s := account.requests.wait_for(1, now):
                return Refusal(f"this key may ask {account.requests.per_minute} times a minute", wait_s)
            account.requests.take(1, now)
        if quota.concurrency is not None:
            account.open[lease] = now + self._lease_s
        return None

    def leave(self, name: str, lease: str) -> None:
        """Give a lease back; without effect on one that is not held."""
        if account := self._accounts.get(name):
            account.open.pop(lease, None)

    def reserve(self, name: str, quota: Quota, tokens: int) -> Refusal | None:
        """Take tokens before it is known how many are needed; None: taken."""
        now = self._clock()
        account = self._account(name, quota, now)
        if account.tokens is None:
            return None
        if wait_s := account.tokens.wait_for(tokens, now):
            return Refusal(f"this key may use {account.tokens.per_minute} tokens a minute", wait_s)
        account.tokens.take(tokens, now)
        return None

    def charge(self, name: str, tokens: int) -> None:
        """Take the tokens that were needed beyond the reserved ones, or give back what was not (negative)."""
        account = self._accounts.get(name)
        if account is not None and account.tokens is not None:
            account.tokens.take(tokens, self._clock())

    def _account(self, name: str, quota: Quota, now: float) -> _Account:
        account = self._accounts.setdefault(name, _Account())
        account.requests = _bucket(account.requests, quota.requests_per_minute, now)
        account.tokens = _bucket(account.tokens, quota.tokens_per_minute, now)
        return account


def _bucket(bucket: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    """The same bucket, or another where the keys file was given another rate."""
    if per_minute is None:
        return None
    return bucket if bucket is not None and bucket.per_minute == per_minute else Bucket(per_minute, now)


def lease_s(limits: LimitsConfig) -> float:
    """After how many seconds a request that was never given back is gone for certain."""
    return limits.deadline_s + limits.body_timeout_s + _MINUTE_S


class Accounts(Protocol):
    """A ledger, wherever it is."""

    async def enter(self, name: str, quota: Quota, lease: str) -> Refusal | None:
        """See `Ledger.enter`."""

    async def leave(self, name: str, lease: str) -> None:
        """See `Ledger.leave`."""

    async def reserve(self, name: str, quota: Quota, tokens: int) -> Refusal | None:
        """See `Ledger.reserve`."""

    async def charge(self, name: str, tokens: int) -> None:
        """See `Ledger.charge`."""


class LocalAccounts:
    """A ledger in this process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def enter(self, name: str, quota: Quota, lease: str) -> Refusal | None:
        """See `Ledger.enter`."""
        return self._ledger.enter(name, quota, lease)

    async def leave(self, name: str, lease: str) -> None:
        """See `Ledger.leave`."""
        self._ledger.leave(name, lease)

    async def reserve(self, name: str, quota: Quota, tokens: int) -> Refusal | None:
        """See `Ledger.reserve`."""
        return self._ledger.reserve(name, quota, tokens)

    async def charge(self, name: str, tokens: int) -> None:
        """See `Ledger.charge`."""
        self._ledger.charge(name, tokens)


@dataclass(slots=True)
class RequestContext:
    """One request's identity, in `scope["state"]["ragray"]`; and what it used, for the log and for its account."""

    key_name: str | None  # None: asked without a key
    request_id: str
    quota: Quota = field(default_factory=Quota)
    accounts: Accounts | None = None  # None: nothing is counted
    reserved: int = 0  # tokens
    prompt_tokens: int = 0
    completion_tokens: int = 0
    code: str | None = None  # of the error that it got
    trace_id: str | None = None  # of its trace, where requests are traced
    notes: dict[str, Any] = field(default_factory=dict)  # question and answer, where the log may have them

    @property
    def account(self) -> str:
        """The name of the account that pays."""
        return self.key_name or ANYONE

    async def reserve(self, question: str, max_new_tokens: int) -> None:
        """Take the tokens that an answer may need out of the account: its longest, and one a character of the question.

        Raises:
            ApiError: 429, the account has too few.
        """
        self.notes["question"] = question
        if self.accounts is None or self.quota.tokens_per_minute is None:
            return
        reserved = min(len(question) + max_new_tokens, self.quota.tokens_per_minute)
        if refusal := await self.accounts.reserve(self.account, self.quota, reserved):
            raise refusal.error()
        self.reserved = reserved

    async def settle(self, reply: Reply) -> None:
        """Charge an answer by its real length; one from the cache costs nothing."""
        self.prompt_tokens, self.completion_tokens = reply.answer.prompt_tokens, reply.answer.completion_tokens
        self.notes["answer"] = reply.answer.text
        used = 0 if reply.cache in ("hit", "semantic") else self.prompt_tokens + self.completion_tokens
        await self.refund(self.reserved - used)

    async def refund(self, tokens: int | None = None) -> None:
        """Give reserved tokens back; by default all of them."""
        back = self.reserved if tokens is None else tokens
        if self.accounts is not None and self.quota.tokens_per_minute is not None and back:
            await self.accounts.charge(self.account, -back)
        self.reserved = 0

    async def settled(self, events: AsyncGenerator[str | Reply, None]) -> AsyncGenerator[str | Reply, None]:
        """The events of a stream; its end is charged. Who leaves before it pays what was reserved."""
        try:
            async for event in events:
                if not isinstance(event, str):
                    await self.settle(event)
                yield event
        finally:
            await events.aclose()
