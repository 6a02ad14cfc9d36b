"""A load client that costs little beside the server: raw HTTP/1.1 over kept connections, in a process of its own.

In: the port, and a file with one request a line: {"path": ..., "body": {...} or null}. Out: one JSON line. Each of the
`--concurrency` connections sends its next request when the answer to the one before is whole; requests are taken in
turn, until `--seconds` have passed or, with --once, each was sent once.

  python benchmarks/load_client.py --port 8000 --requests requests.jsonl --concurrency 32 --seconds 4
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_FIRST_PIECE, _TOKENS = b'"delta":{"content":', b'"completion_tokens":'


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 of seconds, in milliseconds."""
    ordered = sorted(values)
    return {f"p{p}": round(ordered[min(len(ordered) * p // 100, len(ordered) - 1)] * 1e3, 3) for p in (50, 95, 99)}


class Client:
    """Counts and times of all connections."""

    def __init__(self, requests: Iterator[bytes], until: float) -> None:
        self._requests, self._until = requests, until
        self.total_s: list[float] = []
        self.first_s: list[float] = []
        self.tokens = 0

    async def connection(self, port: int) -> None:
        """Send one request after the other."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        for request in self._requests:
            if time.perf_counter() >= self._until:
                break
            begun = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b" 200 " not in head[:20]:
                raise RuntimeError((head + await reader.read(4096)).decode("utf-8", "replace"))
            length = head.find(b"content-length:")
            if length >= 0:
                body = await reader.readexactly(int(head[length + 15 : head.index(b"\r\n", length)]))
            else:
                body = await self._stream(reader, begun)
            self.total_s.append(time.perf_counter() - begun)
            if (place := body.rfind(_TOKENS)) >= 0:
                self.tokens += int(body[place + len(_TOKENS) :].split(b",")[0].split(b"}")[0])
        writer.close()

    async def _stream(self, reader: asyncio.StreamReader, begun: float) -> bytes:
        """A body in chunks; the first piece of an answer's text is timed."""
        body = bytearray()
        seen = False
        while not body.endswith(b"\r\n0\r\n\r\n"):
            part = await reader.read(1 << 16)
            if not part:
                raise RuntimeError("a stream was cut")
            body += part
            if not seen and _FIRST_PIECE in body:
                seen = True
                self.first_s.append(time.perf_counter() - begun)
        return bytes(body)


def encoded(line: str) -> bytes:
    """A request as it is sent."""
    asked = json.loads(line)
    if asked["body"] is None:
        return f"GET {asked['path']} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    body = json.dumps(asked["body"]).encode()
    head = f"POST {asked['path']} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def run(args: argparse.Namespace) -> dict[str, object]:
    """All connections at once; what they counted."""
    given = [encoded(line) for line in args.requests.read_text(encoding="utf-8").splitlines()]
    begun = time.perf_counter()
    client = Client(iter(given) if args.once else itertools.cycle(given), begun + args.seconds)
    await asyncio.gather(*(client.connection(args.port) for _ in range(args.concurrency)))
    took = time.perf_counter() - begun
    return {
        "requests": len(client.total_s),
        "seconds": took,
        "total_ms": percentiles(client.total_s),
        "first_ms": percentiles(client.first_s) if client.first_s else None,
        "tokens": client.tokens,
        "cpu_s": time.process_time(),
    }


def main() -> None:
    """Read the options and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--once", action="store_true")
    args = parser.parse_args()
    try:
        import uvloop  # comes with ray[serve]; faster than asyncio's own loop
    except ImportError:
        result = asyncio.run(run(args))
    else:
        result = uvloop.run(run(args))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
