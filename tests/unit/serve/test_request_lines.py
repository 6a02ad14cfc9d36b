"""The file of request lines: JSON, whole, and written soon."""

import json
import logging
import time
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path

import pytest

from ragray.serve.limits import RequestContext
from ragray.serve.logs import LinesFile, RequestLog, logger, write_beside_the_replicas_log


@pytest.fixture
def replicas_log(tmp_path: Path) -> Iterator[Path]:
    """The log of a replica, as Serve sets it up: a buffer in front of a file."""
    handler = MemoryHandler(1, target=logging.FileHandler(tmp_path / "replica.log"))
    serve = logging.getLogger("ray.serve")
    before = serve.handlers, logger.handlers, logger.propagate, logger.level
    serve.handlers = [handler]
    logger.setLevel(logging.INFO)
    yield tmp_path / "replica.log"
    serve.handlers, logger.handlers, logger.propagate = before[:3]
    logger.setLevel(before[3])


def write(request_id: str, status: int = 200) -> None:
    RequestLog("all", prompts=False).write(
        RequestContext("ann", request_id), "POST", "/v1/search", status, 1.23456, complete=True
    )


def test_requests_are_lines_of_json_in_a_file_of_their_own(replicas_log: Path) -> None:
    write_beside_the_replicas_log()
    write("one")
    write("zwei-二", 503)
    file = replicas_log.with_suffix(".requests.log")
    ends = time.monotonic() + 5
    while not file.read_text(encoding="utf-8"):  # nobody flushes it
        assert time.monotonic() < ends
        time.sleep(0.01)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(line["request_id"], line["status"]) for line in lines] == [("one", 200), ("zwei-二", 503)]
    assert set(lines[0]) == {"time", "request_id", "key", "method", "path", "status", "ms", "complete", "code"}
    assert lines[0]["ms"] == 1.235
    assert replicas_log.read_text(encoding="utf-8") == ""


def test_more_lines_follow_in_their_order(tmp_path: Path) -> None:
    handler = LinesFile(tmp_path / "a.requests.log")
    for number in range(500):
        handler.handle(logging.makeLogRecord({"fields": {"n": number}}))
        if number % 100 == 0:
            handler.flush()
    handler.flush()
    lines = (tmp_path / "a.requests.log").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(500))


def test_without_a_replica_nothing_changes() -> None:
    before = logger.handlers, logger.propagate
    serve = logging.getLogger("ray.serve")
    handlers, serve.handlers = serve.handlers, []
    try:
        write_beside_the_replicas_log()
        assert (logger.handlers, logger.propagate) == before
    finally:
        serve.handlers = handlers
