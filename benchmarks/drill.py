"""What the drills of a running service share: the service, the load, and the tables of what became of it.

In: a finished run (`--config`, by default the demo's: `make demo` first). Out: the outcomes of all requests. The
service is that of `ragray serve`, in processes of its own, with HAProxy in front; the load is `drill_client.py`'s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import psutil
from drill_client import BROKEN, CUT, WEIGHTS, Known, Outcome, User
from serving import index_folder, questions_of, served_of, server

REPLICA = "ray::ServeReplica:ragray:"
COLUMNS = ("request", "sent", "as expected", "failed", "p50 ms", "p95 ms", "p99 ms", "slowest ms")


def options(description: str | None, minutes: float) -> argparse.ArgumentParser:
    """A parser with what every drill has."""
    parser = argparse.ArgumentParser(
        description=(description or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--config", default="configs/demo.yaml", help="a finished run")
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--users", type=int, default=4, help="each sends one request after the other")
    parser.add_argument("--think", type=float, default=1.5, help="seconds between two requests of a user, on average")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--port", type=int, default=0, help="where the service answers; 0: any that is free")
    parser.add_argument("--keep-log", type=Path, help="where the service's own output goes")
    parser.add_argument("--no-record", action="store_true", help="only print, write nothing below benchmarks/results")
    parser.add_argument("--artifacts", nargs=3, metavar=("INDEX", "CONFIDENCE", "ENGINE"), help="instead of --config")
    parser.set_defaults(collection=None, questions=None)
    return parser


@dataclass(frozen=True)
class Service:
    """A service that runs."""

    port: int
    pid: int
    questions: list[str]
    known: Known

    def replicas(self, part: str) -> list[psutil.Process]:
        """The processes of one part (`Ingress`, `Retriever`, `Generator`) that run now."""
        return [process for process, title in titled(self.pid) if title.startswith(f"{REPLICA}{part}")]


@contextmanager
def service(args: argparse.Namespace, settings: dict[str, Any], store: Path | None = None) -> Iterator[Service]:
    """A run's artifacts served with these fields of `serve`; `store`: where a changing index is made of its index."""
    from ragray.retrieval.index import HybridIndex
    from ragray.retrieval.store import IndexStore
    from ragray.serve.artifacts import Served, open_artifact

    with tempfile.TemporaryDirectory(prefix="ragray-drill-") as name:
        folder = Path(name)
        served, engine = served_of(args, folder)
        index = index_folder(served.index or "")
        if store is not None:
            opened = open_artifact(served.confidence or "", "calibrate"), open_artifact(served.engine or "", "engine")
            served = Served.of(IndexStore.create(store, index), *opened)
        told = {"served": asdict(served), "settings": settings, "engine": engine.model_dump()}
        (folder / "served.json").write_text(json.dumps(told), encoding="utf-8")
        questions = questions_of(args, HybridIndex.open(index))
        lineage = dict(served.lineage)
        of_index = {"index": lineage.pop("index")}
        if store is not None:
            of_index["index_version"] = str(IndexStore(store).version)
        log = args.keep_log or folder / "said.txt"
        with (
            log.open("w") as said,
            server("ragray", "--served", str(folder / "served.json"), port=args.port, said=said) as (port, pid),
        ):
            yield Service(port, pid, questions, Known([of_index], [lineage]))


def titled(pid: int) -> Iterator[tuple[psutil.Process, str]]:
    """A process and all below it, each with its title."""
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if words:
            yield process, " ".join(words)


async def drive(
    of: Service,
    args: argparse.Namespace,
    beside: Callable[[float], Awaitable[None]],
    seen: list[Outcome],
    warm_up_s: float = 0.0,
) -> None:
    """Send the load for `--minutes`, with `beside` running beside it; it is given the time to end.

    Before, the users send for `warm_up_s` without thinking; that counts, too.
    """
    timeout = aiohttp.ClientTimeout(total=150, sock_connect=10)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{of.port}", timeout=timeout) as session:
        users = [
            User(session, of.questions, Random(f"{args.seed} {number}"), of.known, seen.append)
            for number in range(args.users)
        ]
        warm = time.monotonic() + warm_up_s
        await asyncio.gather(*(user.run(warm, 0.0) for user in users))
        until = time.monotonic() + args.minutes * 60
        await asyncio.gather(*(user.run(until, args.think) for user in users), beside(until))


def is_broken(outcome: Outcome) -> bool:
    """Whether it is a stream that ended before its end."""
    return outcome.fault.startswith((BROKEN, CUT))


def outcome_rows(seen: Sequence[Outcome]) -> list[str]:
    """A row for each kind of request."""
    rows = []
    for kind in WEIGHTS:
        of_kind = [one for one in seen if one.kind == kind]
        if not of_kind:
            continue
        good = sorted(one.seconds * 1e3 for one in of_kind if not one.fault)
        places = [min(len(good) * share // 100, len(good) - 1) for share in (50, 95, 99, 100)]
        times = [f"{good[place]:,.0f}" if good else "" for place in places]
        cells = [kind, *(f"{count:,}" for count in (len(of_kind), len(good), len(of_kind) - len(good))), *times]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def faults(seen: Sequence[Outcome]) -> list[str]:
    """What went wrong, how often."""
    counted = Counter((one.kind, one.fault) for one in seen if one.fault)
    return [f"{times} times {kind}: {fault}" for (kind, fault), times in counted.most_common()]


@dataclass(frozen=True)
class Line:
    """A straight line through points, and how well it is known."""

    slope: float  # per unit of time
    error: float  # half of the slope's 95 % confidence interval
    spread: float  # standard deviation of the points about it


def fit(times: Sequence[float], values: Sequence[float]) -> Line:
    """The line of least squares; its interval by Student's t, so the points should not lean on each other.

    Source: Draper & Smith, Applied Regression Analysis, 1.4.
    """
    from scipy.stats import t

    count = len(times)
    middle, mean = sum(times) / count, sum(values) / count
    squares = sum((time - middle) ** 2 for time in times)
    slope = sum((time - middle) * (value - mean) for time, value in zip(times, values, strict=True)) / squares
    residues = sum((value - mean - slope * (time - middle)) ** 2 for time, value in zip(times, values, strict=True))
    spread = math.sqrt(residues / (count - 2))
    return Line(slope, float(t.ppf(0.975, count - 2)) * spread / math.sqrt(squares), spread)
