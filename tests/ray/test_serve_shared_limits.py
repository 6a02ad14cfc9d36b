"""The ledger in an actor: what one replica counts the other sees, and the loss of the actor is no loss of service."""

from __future__ import annotations

import asyncio
import uuid

from ragray.serve.limits import Quota, Refusal
from ragray.serve.shared_limits import NAMESPACE, SharedAccounts


def test_two_replicas_share_one_account(ray_local: None) -> None:
    async def both() -> None:
        application, quota = uuid.uuid4().hex, Quota(requests_per_minute=3, tokens_per_minute=100, concurrency=2)
        first, second = SharedAccounts(application, 60), SharedAccounts(application, 60)
        leases = [await first.enter("ann", quota), await second.enter("ann", quota)]
        assert all(isinstance(lease, int) for lease in leases) and leases[0] != leases[1]
        refused = await first.enter("ann", quota)
        assert isinstance(refused, Refusal) and "at once" in refused.reason
        await second.leave("ann", int(leases[0]))  # type: ignore[arg-type]
        assert isinstance(await first.enter("ann", quota), int)
        assert await second.reserve("ann", quota, 60) is None
        assert isinstance(await first.reserve("ann", quota, 60), Refusal)
        await second.charge("ann", -30)
        assert await first.reserve("ann", quota, 60) is None

    asyncio.run(both())


def test_applications_do_not_share(ray_local: None) -> None:
    async def both() -> None:
        quota = Quota(requests_per_minute=1)
        for application in (uuid.uuid4().hex, uuid.uuid4().hex):
            assert isinstance(await SharedAccounts(application, 60).enter("ann", quota), int)

    asyncio.run(both())


def test_a_lost_ledger_is_made_again(ray_local: None) -> None:
    import ray

    async def lose() -> None:
        application, quota = uuid.uuid4().hex, Quota(requests_per_minute=1)
        first, second = SharedAccounts(application, 60), SharedAccounts(application, 60)
        assert isinstance(await first.enter("ann", quota), int)
        ray.kill(ray.get_actor(f"limits of {application}", NAMESPACE))
        await second.leave("ann", 1)  # nothing to give back, and no error
        assert isinstance(await second.enter("ann", quota), int)  # with a full account
        assert isinstance(await first.enter("ann", quota), Refusal)  # of the same new ledger

    asyncio.run(lose())
