"""Mixed load from one process: every request has an expected outcome, and what comes instead is told.

In: where the service answers, the questions, a seed, and the lineages that existed. Out: an `Outcome` for each request.
Users think between their requests, so the load is one of people, not of a benchmark: asks with and without the cache,
sampled ones, follow-ups, searches, streams read to their end, streams and asks that are left midway, and bad requests.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

CHAT, SEARCH = "/v1/chat/completions", "/v1/search"
TOKENS = 64  # longest answer that is asked for
WEIGHTS = {
    "ask": 18, "ask, no cache": 12, "ask, sampled": 5, "follow-up": 5, "search": 20, "stream": 14,
    "stream left": 8, "ask left": 5, "bad request": 10, "look": 3,
}  # fmt: skip
BROKEN = "broken with an error event"
CUT = "cut without an event"
Body = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of one request. `fault` is empty where it is what was expected."""

    kind: str
    begun: float  # seconds of `time.monotonic`
    seconds: float
    status: int  # 0: there was none
    fault: str = ""


@dataclass
class Known:
    """What answers are judged by, and what is judged at the end, as an answer may come before its version is known."""

    indexes: list[dict[str, str]]  # the lineage of each version of the index that was served
    releases: list[dict[str, str]]  # and of each version of what else answers
    texts: dict[str, str] = field(default_factory=dict)  # by question and lineage, of greedy answers
    named: set[tuple[tuple[str, str], ...]] = field(default_factory=set)  # lineages of answers

    def strangers(self) -> list[dict[str, str]]:
        """Lineages of answers that never were served."""
        served = [{**release, **index} for release in self.releases for index in self.indexes]
        found = [dict(items) for items in self.named]
        return [one for one in found if not any(one.items() <= lineage.items() for lineage in served)]

    def judge(self, asked: str, lineage: Mapping[str, str], text: str | None) -> str:
        """What is wrong with an answer; empty where nothing is. `text`: of a greedy one, which is always the same."""
        self.named.add(tuple(sorted(lineage.items())))
        if text is not None:
            place = json.dumps([asked, dict(lineage)], sort_keys=True)
            if self.texts.setdefault(place, text) != text:
                return "another answer than before"
        return ""


class Wrong(Exception):
    """An answer that is not what was expected, with its status."""

    def __init__(self, status: int, fault: str) -> None:
        super().__init__(fault)
        self.status = status


class User:
    """Sends one request after the other.

    Args:
        session: of this process; its connections are kept.
        questions: what is asked and searched.
        chance: this user's own.
        known: what answers are judged by.
        report: hears of each outcome.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        questions: Sequence[str],
        chance: Random,
        known: Known,
        report: Callable[[Outcome], None],
    ) -> None:
        self._session, self._questions, self._chance, self._known = session, questions, chance, known
        self._report = report
        self._does: dict[str, Callable[[], Awaitable[int]]] = {
            "ask": lambda: self._ask({}),
            "ask, no cache": lambda: self._ask({"cache": False}),
            "ask, sampled": lambda: self._ask({"temperature": 0.8, "seed": self._chance.randrange(1 << 31)}),
            "follow-up": self._follow_up,
            "search": self._search,
            "stream": self._stream,
            "stream left": self._leave_stream,
            "ask left": self._leave_ask,
            "bad request": self._bad,
            "look": self._look,
        }

    async def run(self, until: float, think_s: float) -> None:
        """Until then, thinking for `think_s` on average between two requests."""
        await asyncio.sleep(self._chance.random() * think_s)
        while time.monotonic() < until:
            (kind,) = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
            begun = time.monotonic()
            status, fault = 0, ""
            try:
                status = await self._does[kind]()
            except Wrong as wrong:
                status, fault = wrong.status, str(wrong)
            except (aiohttp.ClientError, TimeoutError) as error:
                fault = f"{type(error).__name__}: {error}"
            self._report(Outcome(kind, begun, time.monotonic() - begun, status, fault))
            await asyncio.sleep(self._chance.expovariate(1.0) * think_s)

    def _question(self) -> str:
        """Some are asked often, so that the cache has them."""
        often = self._chance.random() < 0.5
        return self._chance.choice(self._questions[:10] if often else self._questions)

    def _chat(self, **more: Any) -> Body:
        messages = [{"role": "user", "content": self._question()}]
        return {"messages": messages, "max_tokens": TOKENS, **more}

    async def _ask(self, more: Body) -> int:
        return await self._answered(self._chat(**more))

    async def _follow_up(self) -> int:
        first, answer = self._question(), {"role": "assistant", "content": "[1]"}
        messages = [{"role": "user", "content": first}, answer, {"role": "user", "content": "How long does it take?"}]
        return await self._answered({"messages": messages, "max_tokens": TOKENS})

    async def _answered(self, body: Body) -> int:
        async with self._session.post(CHAT, json=body) as response:
            tree = await _expect(response, 200)
            choice = tree["choices"][0]
            text = choice["message"]["content"]
            if not text or choice["finish_reason"] not in ("stop", "length"):
                raise Wrong(200, "an answer without text or end")
            self._check(tree, body, text)
            return response.status

    async def _search(self) -> int:
        body = {
            "query": self._question(),
            "top_k": self._chance.choice((3, 10)),
            "explain": self._chance.random() < 0.2,
        }
        async with self._session.post(SEARCH, json=body) as response:
            tree = await _expect(response, 200)
            if not tree["hits"] or tree["hits"][0]["rank"] != 1:
                raise Wrong(200, "no hits")
            if fault := self._known.judge("", tree["lineage"], None):
                raise Wrong(200, fault)
            return response.status

    async def _stream(self) -> int:
        body = self._chat(stream=True, cache=self._chance.random() < 0.3)
        pieces: list[str] = []
        last: Body | None = None
        async with self._session.post(CHAT, json=body) as response:
            if response.status != 200:
                await _expect(response, 200)
            async for event in _events(response):
                choice = event["choices"][0]
                pieces.append(choice["delta"].get("content", ""))
                last = event if choice["finish_reason"] else last
            if last is None:
                raise Wrong(200, CUT)
            self._check(last, body, "".join(pieces))
            return response.status

    def _check(self, tree: Body, body: Body, text: str) -> None:
        greedy = text if "temperature" not in body else None
        if fault := self._known.judge(json.dumps(body["messages"]), tree["lineage"], greedy):
            raise Wrong(200, fault)

    async def _leave_stream(self) -> int:
        """Read a few events, then hang up."""
        async with self._session.post(CHAT, json=self._chat(stream=True, cache=False)) as response:
            if response.status != 200:
                await _expect(response, 200)
            wanted = self._chance.randint(1, 6)
            async for _ in _events(response):
                wanted -= 1
                if wanted == 0:
                    break
            response.close()
            return response.status

    async def _leave_ask(self) -> int:
        """Hang up before the answer is there; 0, or the status of one that was quicker."""
        post = self._session.post(CHAT, json=self._chat(cache=False))
        try:
            async with asyncio.timeout(self._chance.uniform(0.005, 0.15)):
                async with post as response:
                    await _expect(response, 200)
                    return response.status
        except TimeoutError:
            return 0

    async def _bad(self) -> int:
        path, sent, status = self._chance.choice(BAD)
        async with self._session.post(path, data=sent, headers={"content-type": "application/json"}) as response:
            await _expect(response, status)
            return response.status

    async def _look(self) -> int:
        path = self._chance.choice(("/healthz", "/v1/status", "/v1/models", "/openapi.json"))
        async with self._session.get(path) as response:
            await _expect(response, 200)
            return response.status


BAD: tuple[tuple[str, bytes, int], ...] = (
    (CHAT, b"{not json", 400),
    (CHAT, b"[]", 400),
    (CHAT, b'{"messages": []}', 400),
    (CHAT, b'{"messages": [{"role": "user", "content": " "}]}', 400),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "temprature": 1}', 400),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "n": 2}', 400),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "model": "gpt"}', 404),
    (CHAT, b'{"messages": [{"role": "user", "content": "' + b"x" * 100_000 + b'"}]}', 400),
    (SEARCH, b'{"query": "x", "top_k": 1000}', 400),
    (SEARCH, b'{"query": "' + b"x" * (1 << 20) + b'"}', 413),
    (SEARCH, b"\xff\xfe", 400),
    ("/v1/nothing", b"{}", 404),
)


async def _expect(response: aiohttp.ClientResponse, status: int) -> Body:
    """The JSON object of an answer with this status; an error has OpenAI's shape."""
    tree: Body = await response.json(content_type=None) if response.content_type == "application/json" else {}
    if response.status != status:
        code = tree.get("error", {}).get("code")
        raise Wrong(response.status, f"status {response.status} {code} in place of {status}")
    if not tree or (status >= 400) != ("error" in tree):
        raise Wrong(response.status, "not a JSON object of the API")
    return tree


async def _events(response: aiohttp.ClientResponse) -> Any:
    """The events of a stream up to `[DONE]`.

    Raises:
        Wrong: it ended without, or with an error.
    """
    try:
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                return
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise Wrong(200, f"{BROKEN}: {event['error']['code']}")
                yield event
    except aiohttp.ClientError as error:
        raise Wrong(200, f"{CUT}: {type(error).__name__}") from None
    raise Wrong(200, CUT)
