"""The reference that several builds share: made once, also when it fails."""

import threading

import pytest

from ragray.distributed.build_engine import _Once
from ragray.errors import WorkError


def test_a_reference_that_cannot_be_made_is_tried_once_and_every_build_hears_why() -> None:
    calls = []

    def make():
        calls.append(1)
        raise WorkError("no node answers")

    once, heard = _Once(make), []

    def build() -> None:
        with pytest.raises(WorkError, match="no node answers"):
            once()
        heard.append(1)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(calls), len(heard)) == (1, 4)
