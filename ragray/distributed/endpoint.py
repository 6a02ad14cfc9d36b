"""Asking a server with OpenAI's chat completions, with patience: what runs inside a Ray Data task.

In: rows with their keys, and what makes a row's messages. Out: for each a reply, or why there is none. Nothing is
raised: replies that came before a failure must not be lost. The key of the server is in no message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ragray.config_data import EndpointConfig
from ragray.schema import stable_digest

if TYPE_CHECKING:
    import httpx

REPLIES = pa.schema({"key": pa.string(), "reply": pa.string(), "failure": pa.string(), "fix": pa.string()})

_AGAIN = frozenset({408, 409, 425, 429})  # and all from 500 on
_LONGEST_WAIT_S = 60.0
_SHOWN = 200  # characters of a server's words in an error
_FIXES = {
    401: "the server refuses the key: set the variable named in {setting}.api_key_env",
    403: "the server refuses the key: set the variable named in {setting}.api_key_env",
    404: "check {setting}.url (it ends in /v1) and {setting}.model",
}
_CHECK = "check {setting}.url and {setting}.model against the server's manual"

Messages = Callable[[Mapping[str, str]], list[dict[str, str]]]  # a row to chat messages; travels to the tasks


class Secret:
    """A key that shows itself to nobody who prints it."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(***)"

    def headers(self) -> dict[str, str]:
        """The header that carries it; none where it is empty."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def hide(self, text: str) -> str:
        """`text` without it."""
        return text.replace(self._value, "***") if self._value else text


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one question: the model's words, or a failure. With a `fix` it is of no use to go on asking."""

    key: str
    reply: str | None = None
    failure: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Endpoint:
    """How a server is asked; it travels to the tasks."""

    settings: EndpointConfig
    secret: Secret
    messages: Messages
    threads: int = 1
    temperature: float = 0.7
    setting: str = "augment.endpoint"  # where the settings stand, for errors

    def ask_batch(self, batch: pa.Table) -> pa.Table:
        """A row of `REPLIES` for each row, in their order, `threads` at a time; a row has a `key`."""
        import httpx

        stop = threading.Event()
        with (
            httpx.Client(timeout=self.settings.timeout_s, headers=self.secret.headers()) as client,
            ThreadPoolExecutor(self.threads) as pool,
        ):
            asked = _Asked(self, client, stop)
            replies = list(pool.map(asked.ask, batch.to_pylist()))
        columns = {name: [getattr(reply, name) for reply in replies] for name in REPLIES.names}
        return pa.table(columns, schema=REPLIES)


@dataclass(frozen=True)
class _Asked:
    """One batch being asked; `stop` is set when the server will not take any more."""

    endpoint: Endpoint
    client: httpx.Client
    stop: threading.Event

    def ask(self, row: Mapping[str, str]) -> Reply:
        """One question, again and again while there is hope."""
        settings, failure = self.endpoint.settings, ""
        for attempt in range(settings.max_retries + 1):
            if self.stop.is_set():
                return Reply(row["key"], failure=failure or "not asked")
            found, wait_s = self._once(row)
            if found.reply is not None or found.fix:
                if found.fix:
                    self.stop.set()
                return found
            failure = found.failure
            if attempt < settings.max_retries:
                self.stop.wait(wait_s if wait_s is not None else self._pause(row["key"], attempt))
        return Reply(row["key"], failure=failure)

    def _pause(self, key: str, attempt: int) -> float:
        """Seconds to wait: twice as long each time, up to half more, so that many do not come back at once."""
        spread = 1.0 + stable_digest(key, attempt) / 2**65
        return min(_LONGEST_WAIT_S, float(self.endpoint.settings.first_wait_s * 2**attempt * spread))

    def _once(self, row: Mapping[str, str]) -> tuple[Reply, float | None]:
        """What one request gave, and how many seconds the server asks to wait, if it says."""
        import httpx

        settings = self.endpoint.settings
        body = {
            "model": settings.model,
            "messages": self.endpoint.messages(row),
            "temperature": self.endpoint.temperature,
        }
        try:
            response = self.client.post(f"{settings.url}/chat/completions", json=body)
        except httpx.HTTPError as error:  # timeouts, lost connections, broken HTTP
            return Reply(row["key"], failure=type(error).__name__), None
        status = response.status_code
        if status == httpx.codes.OK:
            text = _content(response)
            return Reply(row["key"], text, "" if text is not None else "no chat completion in the reply"), None
        if status in _AGAIN or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return Reply(row["key"], failure=f"HTTP {status}"), _seconds(response.headers.get("retry-after", ""))
        said = "" if status in (401, 403) else f": {self.endpoint.secret.hide(response.text)[:_SHOWN]}"
        fix = _FIXES.get(status, _CHECK).format(setting=self.endpoint.setting)
        return Reply(row["key"], failure=f"HTTP {status}{said}", fix=fix), None


def _content(response: httpx.Response) -> str | None:
    """The first choice's text, or None where the reply is no chat completion."""
    try:
        content: Any = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return content if isinstance(content, str) else None


def _seconds(text: str) -> float | None:
    """A Retry-After header of seconds; dates are not read."""
    return min(_LONGEST_WAIT_S, float(text)) if text.isdigit() else None
