"""Half an hour of mixed load on a served application: no good request fails, and no process grows.

In: a finished run, see `drill.py`. Out: the outcomes of all requests, and for each kind of process its memory over the
time. Memory is anonymous (`Pss_Anon`): what a process can leak. Pages of files count for whoever maps them, also for
other programs of the machine, so they are left out. Caches and the allocator's pools fill during `--warm-up`, when the
users do not think, above all the cache of attention keys and values (`engine.kv_cache_gib`). The means of each minute
after it are fitted by a straight line; a process grows where the 95 % interval of the slope lies above zero and the
growth of the whole time is more than twice the spread of the minutes about the line. The script ends with 1 if a
request failed or a process of ragray grows.

  python benchmarks/soak.py --minutes 30
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drill import COLUMNS, REPLICA, Service, drive, faults, fit, options, outcome_rows, service, titled
from drill_client import Outcome
from harness import publish

_SAMPLE_EVERY_S = 5.0
_PLACES = 4  # minutes whose memory is shown
_OTHERS = "all others"
_NAMES = {
    "ray::ServeController": "Serve's controller", "ray::Proxy": "Serve's proxies", "ray::HAProxy": "Serve's proxies",
    "gcs_server": "GCS", "raylet/": "raylet", "haproxy": "HAProxy",
}  # fmt: skip
Samples = dict[str, list[tuple[float, float]]]  # MiB by minute since the start, of each kind of process


def role(title: str) -> str:
    """What a process is, by its title."""
    if title.startswith(REPLICA):
        return re.split(r"\W", title.removeprefix(REPLICA), maxsplit=1)[0]  # what it does now may follow
    return next((name for part, name in _NAMES.items() if part in title), _OTHERS)


def memory(pid: int) -> dict[str, float]:
    """Anonymous memory of a tree of processes, MiB, by what they are."""
    found: dict[str, float] = defaultdict(float)
    for process, title in titled(pid):
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (OSError, ProcessLookupError):  # it ended meanwhile
            continue
        kib = next((int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")), 0)
        found[role(title)] += kib / 1024
    return found


async def watch(of: Service, until: float, samples: Samples) -> None:
    """Look at the memory again and again."""
    begun = time.monotonic()
    while time.monotonic() < until:
        minute = (time.monotonic() - begun) / 60
        for name, mib in memory(of.pid).items():
            samples[name].append((minute, mib))
        await asyncio.sleep(_SAMPLE_EVERY_S)


def means(samples: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """(minutes, the mean of each)."""
    by_minute: dict[int, list[float]] = defaultdict(list)
    for minute, mib in samples:
        by_minute[int(minute)].append(mib)
    return [minute + 0.5 for minute in by_minute], [statistics.mean(values) for values in by_minute.values()]


def memory_rows(samples: Samples) -> tuple[list[str], list[str]]:
    """(a row for each kind of process, those that grow)."""
    rows, growing = [], []
    for name in sorted(samples, key=lambda name: (name == _OTHERS, name)):
        minutes, mib = means(samples[name])
        line = fit(minutes, mib)
        growth = line.slope * (minutes[-1] - minutes[0])
        grows = line.slope > line.error and growth > 2 * line.spread
        if grows:
            growing.append(name)
        shape = [mib[place * (len(mib) - 1) // (_PLACES - 1)] for place in range(_PLACES)]
        hourly = f"{line.slope * 60:+.2f} ± {line.error * 60:.2f}"
        cells = [name, *(f"{value:.1f}" for value in shape), hourly]
        cells += [f"{growth:+.2f}", f"{line.spread:.2f}", "grows" if grows else "flat"]
        rows.append(f"| {' | '.join(cells)} |")
    return rows, growing


MEMORY_COLUMNS = (
    "process", "MiB at first", "at a third", "at two thirds", "at last", "slope, MiB an hour", "growth, MiB",
    "spread, MiB", "",
)  # fmt: skip


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """As `ragray serve` comes, or with all parts apart."""
    return {"retriever": "deployment"} if args.apart else {}


def main() -> None:
    """Serve, send, watch, judge."""
    parser = options(__doc__, minutes=30)
    parser.add_argument(
        "--warm-up", type=float, default=8.0, help="minutes before, without thinking; their memory is not judged"
    )
    parser.add_argument("--samples", type=Path, help="where all samples of the memory are written, as CSV")
    parser.add_argument("--apart", action="store_true", help="the retriever in a deployment of its own, too")
    args = parser.parse_args()
    seen: list[Outcome] = []
    samples: Samples = defaultdict(list)
    with service(args, settings(args)) as of:
        asyncio.run(drive(of, args, lambda until: watch(of, until, samples), seen, args.warm_up * 60))
    if args.samples is not None:
        lines = (f"{name},{minute:.3f},{mib:.3f}\n" for name, taken in samples.items() for minute, mib in taken)
        args.samples.write_text("process,minute,mib\n" + "".join(lines), encoding="utf-8")
    rows, growing = memory_rows(samples)
    failed = sum(bool(one.fault) for one in seen)
    setting = (
        f"{args.warm_up:g} minutes without pauses and then {args.minutes:g}, {args.users} users who think "
        f"{args.think:g} s on average, seed {args.seed}; {len(seen):,} requests, {failed} failed"
    )
    publish("soak", setting, COLUMNS, outcome_rows(seen), not args.no_record)
    watched = f"anonymous memory every {_SAMPLE_EVERY_S:g} s, means of the last {args.minutes:g} minutes"
    publish("soak", watched, MEMORY_COLUMNS, rows, not args.no_record)
    for line in faults(seen):
        print(line)
    for name in growing:
        print(f"grows: {name}")
    ours = {"Ingress", "Retriever", "Generator"}
    for lineage in of.known.strangers():
        print(f"an answer of a version that never was: {lineage}")
    sys.exit(1 if failed or of.known.strangers() or ours & set(growing) else 0)


if __name__ == "__main__":
    main()
