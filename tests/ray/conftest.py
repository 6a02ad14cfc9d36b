"""One small local Ray for all tests of this folder."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    import ray

    from ragray.distributed.session import connect

    connect()
    yield
    ray.shutdown()
