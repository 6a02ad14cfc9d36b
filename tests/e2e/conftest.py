"""The demo's chain with smaller settings, run once for all tests of this folder."""

import pytest
from small_chain import SmallRun, run_small


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return run_small(tmp_path_factory.mktemp("small"))
