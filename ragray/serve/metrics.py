"""What the service counts and times, for Prometheus by way of Ray's metrics.

In: replies, answered requests. Out: Ray metrics, which each node's Ray exports for Prometheus with `ray_` before their
names and, for counters, `_total` behind. There is no gauge: Ray exports one only while it is being set, so what is open
is the difference of two counters. No question, answer, key or address is a label. `deploy/grafana/serving.json` shows
them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Histogram

if TYPE_CHECKING:
    from ragray.engine.protocol import Completion
    from ragray.serve.chat import Reply

_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
_TOKEN_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]
_PATHS = {"/v1/chat/completions": "chat", "/v1/search": "search", "/v1/feedback": "feedback"}


class ServingMetrics:
    """All metrics of the service; made once in each process, see `serving_metrics`."""

    def __init__(self) -> None:
        self._requests = Counter(
            "ragray_requests", "answered HTTP requests; status 499: the client went away", ("path", "status")
        )
        self._request_s = Histogram(
            "ragray_request_seconds", "from a request's first byte to the end of its answer", _SECONDS, ("path",)
        )
        self._begun = Counter("ragray_requests_begun", "HTTP requests, also those that are not answered yet", ("path",))
        self._errors = Counter("ragray_errors", "refused and failed requests by the code in their answer", ("code",))
        self._answers = Counter("ragray_answers", "answers by what ended them", ("ended_by",))
        self._cache = Counter("ragray_cache_lookups", "looks into the caches, by cache and outcome", ("cache", "use"))
        self._retrieve_s = Histogram("ragray_retrieve_seconds", "finding the passages of a question", _SECONDS)
        self._first_s = Histogram(
            "ragray_first_token_seconds", "from the submission of a prompt to its first token (TTFT)", _SECONDS
        )
        self._token_s = Histogram(
            "ragray_token_seconds", "between two tokens, mean over an answer (TPOT)", _TOKEN_SECONDS
        )
        self._tokens = Counter("ragray_tokens", "tokens read (prompt) and generated (completion)", ("kind",))
        self._swaps = Counter("ragray_swaps", "releases that were to be swapped in, by outcome", ("outcome",))
        self._generations = Counter("ragray_generations", "answers that the engine began and ended", ("event",))

    def begin(self, path: str) -> None:
        """A request's headers are here."""
        self._begun.inc(1, {"path": _PATHS.get(path, "other")})

    def end(self, path: str, status: int, seconds: float, code: str | None = None) -> None:
        """A request's answer has ended; `code` is that of its error."""
        shown = _PATHS.get(path, "other")
        self._requests.inc(1, {"path": shown, "status": str(status)})
        self._request_s.observe(seconds, {"path": shown})
        if code is not None:
            self._errors.inc(1, {"code": code})

    def answered(self, reply: Reply, completion: Completion | None) -> None:
        """A question has its answer; `completion` where the engine wrote it for this request."""
        answer = reply.answer
        ended_by = f"declined by {answer.declined_by}" if answer.declined else reply.finish_reason
        self._answers.inc(1, {"ended_by": ended_by})
        if "retrieve" in answer.timings_ms:
            self._retrieve_s.observe(answer.timings_ms["retrieve"] / 1e3)
        if completion is not None:
            self.generated(completion)

    def generated(self, completion: Completion) -> None:
        """The engine has ended an answer."""
        written = len(completion.token_ids)
        for kind, tokens in (("prompt", completion.prompt_tokens), ("completion", written)):
            if tokens:  # a counter takes no zero
                self._tokens.inc(tokens, {"kind": kind})
        if completion.timing is not None:
            self._first_s.observe(completion.timing.first_token_s)
            if written > 1:
                between = completion.timing.last_token_s - completion.timing.first_token_s
                self._token_s.observe(between / (written - 1))

    def looked(self, cache: str, use: str) -> None:
        """A cache was asked: "exact", "semantic", "retrieval" or "shared"; it gave a "hit" or "miss", or "failed"."""
        self._cache.inc(1, {"cache": cache, "use": use})

    def swapped(self, outcome: str) -> None:
        """A release is "served" by all replicas, or "failed" to be loaded."""
        self._swaps.inc(1, {"outcome": outcome})

    def generation(self, event: str) -> None:
        """The engine has "begun" an answer, or "ended" it; what is between is running or waiting."""
        self._generations.inc(1, {"event": event})


@cache
def serving_metrics() -> ServingMetrics:
    """This process's metrics."""
    return ServingMetrics()
