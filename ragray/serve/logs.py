"""One line in the log for each request: who asked what, how it ended, how long it took, what it used.

In: a finished request. Out: a record of the logger `ray.serve.requests`, whose fields are attributes of the record: the
JSON encoding of Serve's logs, which the ingress is deployed with, writes them as keys. No prompt, no answer, no header
and no query string is among them; `serve.limits.log_prompts` adds question and answer.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from ragray.serve.limits import RequestContext

LEFT = 499  # the client went away before any answer; the status that nginx logs
_LONGEST_PATH = 128

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
            "log_to_stderr": False,  # Serve: into the replica's log file alone
            "request_id": context.request_id,
            "key": context.key_name,
            "method": method,
            "path": path[:_LONGEST_PATH],
            "status": status,
            "ms": round(duration_ms, 3),
            "complete": complete,
        }
        if context.trace_id is not None:
            fields["trace_id"] = context.trace_id
        if context.prompt_tokens or context.completion_tokens:
            fields |= {"prompt_tokens": context.prompt_tokens, "completion_tokens": context.completion_tokens}
        if self._prompts:
            fields |= context.notes
        logger.info("request %s %s", method, status, extra=fields)
