"""What serving costs: ragray's search and cached answers over HTTP against bare uvicorn and Serve's default chain.

In: a finished run (`--config`, by default the demo's: `make demo` first), three artifacts (`--artifacts`), or a test
collection in BEIR's format (`--collection`), whose index is built and searched alone. All servers and the load client
share this machine. One round measures each server at `--concurrency`; the rounds alternate in order. CPU is that of the
server's whole tree of processes, idle ones too, for each request.

With an engine, generation is measured, too: the same questions over HTTP, streamed and with the cache off, and the
same prompts given to the engine alone in this process, each at several concurrencies; requests/s, tokens/s and TTFT.

  python benchmarks/serving.py --config configs/demo.yaml
  python benchmarks/serving.py --collection BEIR/scifact --runs 1 --no-record
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from harness import ROOT, publish

HERE = Path(__file__).parent
ECHO = {"text": "how do i reset the password of my account " * 3}
NEW_TOKENS = 128
ALONE, THROUGH = "engine alone", "through HTTP"
Rounds = dict[str, list[dict[str, Any]]]


def tree_cpu_s(pid: int) -> float:
    """CPU seconds so far of a process and all below it."""
    import psutil

    root = psutil.Process(pid)
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


@contextmanager
def server(
    name: str, *options: str, port: int = 0, said: IO[str] | int = subprocess.DEVNULL
) -> Iterator[tuple[int, int]]:
    """(its port, its process id), once it answers; a free port unless one is given, and its errors go to `said`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
    command = [sys.executable, str(HERE / "serving_servers.py"), name, "--port", str(port), *options]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_SERVE", "RAY_ADDR"))}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=environment, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{' '.join(command)}: did not start")
        time.sleep(2.0)  # what still starts beside it
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()


def load(port: int, requests: Path, *options: str) -> dict[str, Any]:
    """One run of the client."""
    command = [sys.executable, str(HERE / "load_client.py"), "--port", str(port), "--requests", str(requests), *options]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return dict(json.loads(ran.stdout))


def measured(at: tuple[int, int], requests: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Requests/s and CPU of one server, after a second of warming up."""
    port, pid = at
    concurrency = ("--concurrency", str(args.concurrency))
    load(port, requests, *concurrency, "--seconds", "1")
    before = tree_cpu_s(pid)
    found = load(port, requests, *concurrency, "--seconds", str(args.seconds))
    cpu_ms = (tree_cpu_s(pid) - before) / found["requests"] * 1e3
    return {"rps": found["requests"] / found["seconds"], "cpu_ms": cpu_ms, **found["total_ms"]}


class Workload:
    """What ragray serves, and what it is asked."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        from ragray.retrieval.index import HybridIndex

        self.folder = folder
        self.served, self.engine = served_of(args, folder)
        self.index = HybridIndex.open(index_folder(self.served.index or ""))
        self.questions = questions_of(args, self.index)
        settings = {"max_question_chars": 20_000, "max_new_tokens": NEW_TOKENS, "generator": args.generator}
        told = {"served": asdict(self.served), "settings": settings, "engine": self.engine.model_dump()}
        self.told = folder / "served.json"
        self.told.write_text(json.dumps(told), encoding="utf-8")

    def file(self, name: str, path: str, bodies: Sequence[Any]) -> Path:
        """A file of requests for the client."""
        file = self.folder / f"{name}.jsonl"
        lines = (json.dumps({"path": path, "body": body}) + "\n" for body in bodies)
        file.write_text("".join(lines), encoding="utf-8")
        return file

    def chats(self, name: str, questions: Sequence[str], **more: Any) -> Path:
        """Chats, one for each question."""
        bodies = [{"messages": [{"role": "user", "content": one}], **more} for one in questions]
        return self.file(name, "/v1/chat/completions", bodies)


def served_of(args: argparse.Namespace, folder: Path) -> tuple[Any, Any]:
    """What is served, and the engine's settings."""
    from ragray.config import EngineConfig, RetrievalConfig
    from ragray.config_loading import load_config
    from ragray.serve.app import served_by
    from ragray.serve.artifacts import Served, open_artifact, open_index

    if args.collection is not None:
        return collection_index(args.collection, RetrievalConfig(), folder), EngineConfig()
    if args.artifacts is not None:
        index, confidence, engine = args.artifacts
        opened = open_index(index), open_artifact(confidence, "calibrate"), open_artifact(engine, "engine")
        return Served.of(*opened), EngineConfig()
    config = load_config(args.config)
    return served_by(config, config.serve.index_store), config.engine


def collection_index(collection: Path, settings: Any, folder: Path) -> Any:
    """An index of a collection's documents."""
    from ragray.artifact import Store
    from ragray.evaluation.collections import read_collection
    from ragray.retrieval.writing import build_index
    from ragray.serve.artifacts import Served

    store = Store(str(folder / "store"))
    with store.draft("index", "0" * 64, format_version=1, inputs={}, config={}, code="") as draft:
        build_index(read_collection(collection).documents, settings, draft.folder)
    assert draft.result is not None
    return Served.of(draft.result, None, None)


def index_folder(uri: str) -> Path:
    """The files of an index artifact."""
    from ragray.serve.artifacts import open_artifact

    return open_artifact(uri, "index").folder


def questions_of(args: argparse.Namespace, index: Any) -> list[str]:
    """What is asked: given questions, the collection's, or the titles of the index's FAQ passages."""
    from ragray.evaluation.collections import read_collection

    if args.questions is not None:
        return [line for line in args.questions.read_text(encoding="utf-8").splitlines() if line.strip()]
    if args.collection is not None:
        return list(read_collection(args.collection).queries.values())
    passages = (index.passage_at(number) for number in range(len(index)))
    return list(dict.fromkeys(one.title for one in passages if one.kind == "faq"))


def search_alone(work: Workload) -> dict[str, Any]:
    """The same searches in this process, with their JSON: CPU of each."""
    import asyncio

    from pydantic_core import to_json

    from ragray.serve.retriever import Retriever

    retriever = Retriever(work.index, None)

    async def search() -> float:
        begun = time.process_time()
        for question in work.questions:
            found = await retriever.search(question, 10)
            to_json([hit.to_json() for hit in found.hits])
        return (time.process_time() - begun) / len(work.questions) * 1e3

    asyncio.run(search())
    return {"cpu_ms": asyncio.run(search())}


def http_round(work: Workload, args: argparse.Namespace, backwards: bool) -> dict[str, dict[str, Any]]:
    """Each server once."""
    echo = work.file("echo", "/echo", [ECHO])
    found: dict[str, dict[str, Any]] = {}

    def ours() -> None:
        with server("ragray", "--served", str(work.told)) as at:
            found["HTTP layer of ragray (/healthz)"] = measured(at, work.file("health", "/healthz", [None]), args)
            bodies = [{"query": question} for question in work.questions]
            found["ragray /v1/search"] = measured(at, work.file("search", "/v1/search", bodies), args)
            if work.served.engine is not None:
                cached = work.chats("cached", work.questions[:8])
                load(at[0], cached, "--once", "--concurrency", "1")
                found["ragray exact cache hit"] = measured(at, cached, args)

    def uvicorn() -> None:
        with server("uvicorn") as at:
            found["bare uvicorn, echo"] = measured(at, echo, args)

    def chain() -> None:
        with server("chain") as at:
            found["Serve's default chain, echo"] = measured(at, echo, args)

    steps = [uvicorn, chain, ours]
    for step in reversed(steps) if backwards else steps:
        step()
    found["search alone, in process"] = search_alone(work)
    return found


def main() -> None:
    """Measure, print, and keep the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", default="configs/demo.yaml", help="a finished run")
    parser.add_argument("--artifacts", nargs=3, metavar=("INDEX", "CONFIDENCE", "ENGINE"), help="instead of --config")
    parser.add_argument("--collection", type=Path, help="a folder in BEIR's format, instead of --config")
    parser.add_argument("--questions", type=Path, help="a file with a question a line")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--concurrency", type=int, default=32, help="connections of the HTTP comparison")
    parser.add_argument("--generator", choices=("deployment", "ingress"), default="deployment", help="serve.generator")
    parser.add_argument("--concurrencies", default="1,8,16,32", help="requests at a time, of the generation comparison")
    parser.add_argument("--answers", type=int, default=192, help="questions of the generation comparison at most")
    parser.add_argument("--only", choices=("http", "generation"), help="one of the two comparisons")
    parser.add_argument("--no-record", action="store_true", help="only print, write nothing below benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ragray-benchmark-") as name:
        work = Workload(args, Path(name))
        documents = f"{len(work.index):,} passages, {len(work.questions):,} questions"
        if args.only != "generation":
            rounds: Rounds = {}
            for number in range(args.runs):
                for case, row in http_round(work, args, number % 2 == 1).items():
                    rounds.setdefault(case, []).append(row)
                    print(f"{number + 1}/{args.runs} {case}: {row}", file=sys.stderr, flush=True)
            setting = f"{documents}; {args.concurrency} connections, {args.seconds:g} s; median of {args.runs} rounds"
            publish("serving", setting, HTTP_COLUMNS, http_rows(rounds), not args.no_record)
        if args.only != "http" and work.served.engine is not None:
            from serving_generation import generation_rows

            columns, rows = generation_rows(work, args)
            setting = f"{documents}, at most {NEW_TOKENS} tokens each; generator: {args.generator}; "
            setting += f"median of {args.runs} rounds"
            publish("serving", setting, columns, rows, not args.no_record)


HTTP_COLUMNS = ("case", "requests/s (least to most)", "CPU ms each", "p50 ms", "p95 ms", "p99 ms", "times the chain")


def http_rows(rounds: Rounds) -> list[str]:
    """A row for each case."""
    chain = statistics.median(row["rps"] for row in rounds["Serve's default chain, echo"])
    rows = []
    for case, runs in rounds.items():
        cpu = statistics.median(row["cpu_ms"] for row in runs)
        if "rps" not in runs[0]:
            rows.append(f"| {case} | | {cpu:.3f} | | | | |")
            continue
        rps = [row["rps"] for row in runs]
        times = " | ".join(f"{statistics.median(row[key] for row in runs):.2f}" for key in ("p50", "p95", "p99"))
        middle = statistics.median(rps)
        rows.append(
            f"| {case} | {middle:,.0f} ({min(rps):,.0f} to {max(rps):,.0f}) | {cpu:.3f} | {times} | "
            f"{middle / chain:.1f} |"
        )
    return rows


if __name__ == "__main__":
    main()
