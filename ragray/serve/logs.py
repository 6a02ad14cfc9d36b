"""One line in the log for each request: who asked what, how it ended, how long it took, what it used.

In: a finished request. Out: a record of the logger `ray.serve.requests`, with its fields as attributes. In a
replica of Serve the records become lines of JSON in a file of their own beside the replica's log, `*.requests.log`:
Serve's way of writing a line costs as much CPU as half of the rest of a small request. No prompt, no answer, no header
and no query string is among the fields; `serve.limits.log_prompts` adds question and answer.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_json

from ragray.serve.limits import RequestContext

LEFT = 499  # the client went away before any answer; the status that nginx logs
_LONGEST_PATH = 128
_WRITTEN_EVERY_S = 0.2
_MOST_BYTES, _OLD_FILES = 100 << 20, 5

logger = logging.getLogger("ray.serve.requests")


class RequestLog:
    """Writes requests into the log.

    Args:
        which: all of them, the failed ones (status 400 and above), or none.
        prompts: whether question and answer are written, too.
    """

    def __init__(self, which: Literal["all", "failed", "none"], prompts: bool) -> None:
        self._least = {"all": 0, "failed": 400, "none": 1000}[which]
        self._prompts = prompts

    def write(
        self, context: RequestContext, method: str, path: str, status: int, duration_ms: float, complete: bool
    ) -> None:
        """Log one request; `complete`: the whole answer was sent."""
        if status < self._least or not logger.isEnabledFor(logging.INFO):
            return
        fields: dict[str, Any] = {
            "request_id": context.request_id,
            "key": context.key_name,
            "method": method,
            "path": path[:_LONGEST_PATH],
            "status": status,
            "ms": round(duration_ms, 3),
            "complete": complete,
            "code": context.code,
        }
        if context.trace_id is not None:
            fields["trace_id"] = context.trace_id
        if context.prompt_tokens or context.completion_tokens:
            fields |= {"prompt_tokens": context.prompt_tokens, "completion_tokens": context.completion_tokens}
        if self._prompts:
            fields |= context.notes
        logger.info("request", extra={"fields": fields, **fields})


class LinesFile(logging.Handler):
    """Writes the fields of records as lines of JSON, those of a fifth of a second at once.

    Args:
        file: where they go; it is rotated at 100 MiB, and five old ones are kept.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = RotatingFileHandler(file, maxBytes=_MOST_BYTES, backupCount=_OLD_FILES, encoding="utf-8")
        self._waiting: list[bytes] = []
        self._timer: threading.Timer | None = None
        atexit.register(self.flush)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line until the next writing."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        self._waiting.append(to_json({"time": f"{at}.{record.msecs:03.0f}Z", **vars(record)["fields"]}))
        if self._timer is None:
            self._timer = threading.Timer(_WRITTEN_EVERY_S, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def flush(self) -> None:
        """Write what waits."""
        self.acquire()
        lines, self._waiting, self._timer = self._waiting, [], None
        self.release()
        if lines:
            text = b"\n".join(lines).decode()
            self._file.handle(logging.LogRecord("", logging.INFO, "", 0, text, None, None))


def write_beside_the_replicas_log() -> None:
    """In a replica of Serve, write requests into a file of their own; elsewhere the record goes where all do."""
    for handler in logging.getLogger("ray.serve").handlers:
        target = getattr(handler, "target", handler)  # Serve buffers in front of its file
        if isinstance(target, logging.FileHandler):
            logger.handlers = [LinesFile(Path(target.baseFilename).with_suffix(".requests.log"))]
            logger.propagate = False
            return
