"""Generation over HTTP against the engine alone, a part of `serving.py`.

In: what is served, and the options. Out: the rows of a table. Both answer the same prompts, greedily, to the model's
own end, with as many requests running at a time; a closed loop, each question once.
"""

from __future__ import annotations

import argparse
import queue
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

from load_client import percentiles
from serving import ALONE, NEW_TOKENS, THROUGH, Workload, load, server

COLUMNS = (
    "path", "requests at a time", "tokens/s (least to most)", "TTFT p50 / p95 / p99 ms", "whole p50 / p95 / p99 ms",
    "tokens/s of the engine alone", "TTFT p50 later, ms",
)  # fmt: skip


def loaded(work: Workload) -> Any:
    """The engine, in this process."""
    from ragray.engine.runtime import load_engine
    from ragray.serve.artifacts import open_artifact

    return load_engine(open_artifact(work.served.engine, "engine").folder, work.engine)


def answerable(work: Workload, most: int) -> tuple[list[str], list[list[int]]]:
    """(questions that reach the engine, their prompts)."""
    from ragray.engine.assistant import prompt_tokens, retrieve
    from ragray.retrieval.confidence import Confidence
    from ragray.serve.artifacts import open_artifact
    from ragray.serve.cache import normalise_question

    confidence = Confidence.open(open_artifact(work.served.confidence, "calibrate").folder)
    engine = loaded(work)
    found = [(one, retrieve(work.index, confidence, normalise_question(one))) for one in work.questions]
    kept = [(question, prompt_tokens(engine.tokenizer, one)) for question, one in found if one.answerable][:most]
    engine.close()
    return [question for question, _ in kept], [prompt for _, prompt in kept]


def engine_alone(engine: Any, prompts: Sequence[Sequence[int]], concurrency: int) -> dict[str, Any]:
    """All prompts, so many at a time, in this process."""
    from ragray.engine.protocol import SamplingParams

    params = SamplingParams(max_new_tokens=NEW_TOKENS, stop_repeats=True)
    waiting: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
    for prompt in prompts:
        waiting.put(prompt)
    first, total, tokens = [], [], []

    def client() -> None:
        while True:
            try:
                prompt = waiting.get_nowait()
            except queue.Empty:
                return
            begun = time.perf_counter()
            completion = engine.submit(prompt, params).completion()
            total.append(time.perf_counter() - begun)
            tokens.append(len(completion.token_ids))
            if completion.timing is not None:
                first.append(completion.timing.first_token_s)

    begun = time.perf_counter()
    clients = [threading.Thread(target=client) for _ in range(concurrency)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    rate = sum(tokens) / (time.perf_counter() - begun)
    return {"rate": rate, "first": percentiles(first), "total": percentiles(total), "tokens": sum(tokens)}


def over_http(port: int, requests: Any, concurrency: int) -> dict[str, Any]:
    """All questions, so many at a time, streamed."""
    found = load(port, requests, "--once", "--concurrency", str(concurrency))
    rate = found["tokens"] / found["seconds"]
    return {"rate": rate, "first": found["first_ms"], "total": found["total_ms"], "tokens": found["tokens"]}


def generation_rows(work: Workload, args: argparse.Namespace) -> tuple[Sequence[str], list[str]]:
    """The table: the engine alone and over HTTP, at each concurrency."""
    questions, prompts = answerable(work, args.answers)
    concurrencies = [int(part) for part in args.concurrencies.split(",")]
    asked = work.chats(
        "streams", questions, stream=True, cache=False, max_tokens=NEW_TOKENS, stream_options={"include_usage": True}
    )
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for number in range(args.runs):
        for path in (ALONE, THROUGH) if number % 2 == 0 else (THROUGH, ALONE):
            if path == ALONE:
                engine = loaded(work)
                engine_alone(engine, prompts, 16)  # warm
                for concurrency in concurrencies:
                    found.setdefault((concurrency, path), []).append(engine_alone(engine, prompts, concurrency))
                engine.close()
                continue
            with server("ragray", "--served", str(work.told)) as (port, _):
                over_http(port, asked, 16)  # warm
                for concurrency in concurrencies:
                    found.setdefault((concurrency, path), []).append(over_http(port, asked, concurrency))
    return COLUMNS, [row(found, concurrency, path) for concurrency in concurrencies for path in (ALONE, THROUGH)]


def row(found: dict[tuple[int, str], list[dict[str, Any]]], concurrency: int, path: str) -> str:
    """One line of the table."""
    runs, alone = found[concurrency, path], found[concurrency, ALONE]
    rates = [one["rate"] for one in runs]
    rate = statistics.median(rates)
    share = rate / statistics.median(one["rate"] for one in alone)
    later = _middle(runs, "first", "p50") - _middle(alone, "first", "p50")
    times = [" / ".join(f"{_middle(runs, of, p):.1f}" for p in ("p50", "p95", "p99")) for of in ("first", "total")]
    compared = f"{share:.1%} | {later:.1f}" if path == THROUGH else "| "
    spread = f"{rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
    return f"| {path} | {concurrency} | {spread} | {times[0]} | {times[1]} | {compared} |"


def _middle(runs: Sequence[dict[str, Any]], of: str, percentile: str) -> float:
    return statistics.median(one[of][percentile] for one in runs)
