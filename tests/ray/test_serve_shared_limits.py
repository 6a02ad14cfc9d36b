"""The ledger in an actor: what one replica counts the other sees, and the loss of the actor is no loss of service."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from typing import Any

import pytest

from ragray.serve.api import ApiError
from ragray.serve.limits import Quota, Refusal
from ragray.serve.shared_limits import NAMESPACE, SharedAccounts


def accounts(application: str) -> SharedAccounts:
    return SharedAccounts(application, 60).start()


async def until_it_answers(shared: SharedAccounts) -> None:
    """Ask for nothing until there is a new actor, which may take longer to start than a request waits."""
    deadline = time.monotonic() + 60
    while True:
        try:
            await shared.reserve("nobody", Quota(), 1)
            return
        except ApiError as error:
            assert error.status == 503
            if time.monotonic() > deadline:
                raise


def test_two_replicas_share_one_account(ray_local: None) -> None:
    async def both() -> None:
        application, quota = uuid.uuid4().hex, Quota(requests_per_minute=3, tokens_per_minute=100, concurrency=2)
        first, second = accounts(application), accounts(application)
        assert [await first.enter("ann", quota, "a"), await second.enter("ann", quota, "b")] == [None, None]
        refused = await first.enter("ann", quota, "c")
        assert isinstance(refused, Refusal) and "at once" in refused.reason
        await second.leave("ann", "a")
        assert await first.enter("ann", quota, "d") is None
        assert await second.reserve("ann", quota, 60) is None
        assert isinstance(await first.reserve("ann", quota, 60), Refusal)
        await second.charge("ann", -30)
        assert await first.reserve("ann", quota, 60) is None

    asyncio.run(both())


def test_applications_do_not_share(ray_local: None) -> None:
    async def both() -> None:
        quota = Quota(requests_per_minute=1)
        for application in (uuid.uuid4().hex, uuid.uuid4().hex):
            assert await accounts(application).enter("ann", quota, "a") is None

    asyncio.run(both())


def test_a_lost_ledger_is_made_again(ray_local: None) -> None:
    import ray

    async def lose() -> None:
        application, quota = uuid.uuid4().hex, Quota(requests_per_minute=1)
        first, second = accounts(application), accounts(application)
        assert await first.enter("ann", quota, "a") is None
        ray.kill(ray.get_actor(f"limits of {application}", NAMESPACE))
        await second.leave("ann", "a")  # nothing to give back, and no error
        await until_it_answers(second)
        assert await second.enter("ann", quota, "b") is None  # with a full account
        await until_it_answers(first)
        assert isinstance(await first.enter("ann", quota, "c"), Refusal)  # of the same new ledger

    asyncio.run(lose())


def test_a_ledger_that_does_not_answer_is_not_waited_for_and_keeps_no_lease(ray_local: None) -> None:
    import ray

    async def stall() -> None:
        application, quota = uuid.uuid4().hex, Quota(concurrency=1)
        shared = accounts(application)
        ledger = ray.get_actor(f"limits of {application}", NAMESPACE)
        stalled = ledger.__ray_call__.remote(lambda self: time.sleep(8))
        begun = time.monotonic()
        with pytest.raises(ApiError, match="restarting"):
            await shared.enter("ann", quota, "a")
        await shared.leave("ann", "a")
        assert time.monotonic() - begun < 7.5  # two calls of two seconds each
        await stalled
        assert await shared.enter("ann", quota, "b") is None  # "a" came in late, and left

    asyncio.run(stall())


def test_a_name_that_is_still_taken_is_tried_again_outside_the_event_loop(
    ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    found, threads = SharedAccounts._found, []

    def taken_once(self: SharedAccounts) -> Any:
        threads.append(threading.current_thread())
        if len(threads) == 1:
            raise ValueError("the name is already taken")
        return found(self)

    async def lose() -> None:
        application, quota = uuid.uuid4().hex, Quota(requests_per_minute=1)
        shared = accounts(application)
        ray.kill(ray.get_actor(f"limits of {application}", NAMESPACE))
        monkeypatch.setattr(SharedAccounts, "_found", taken_once)
        await until_it_answers(shared)
        assert await shared.enter("ann", quota, "a") is None

    asyncio.run(lose())
    assert len(threads) >= 2 and threading.main_thread() not in threads
