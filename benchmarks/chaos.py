"""Replicas of a served application are killed under load: who notices, and how long each is away.

In: a finished run, see `drill.py`. Out: the outcomes of all requests, and for each part how often one of its replicas
got SIGKILL and when it was back. All three parts run apart, `--replicas` of each. The script ends with 1 if a good
request that is not streamed failed, or a stream ended neither whole, nor with an error event, nor with its ingress,
or an answer's lineage names a version that never was. With `--change-index` a passage comes or goes every
`--swap-every` seconds, with `--swap-to` the service is swapped to the run with that override and back (`ragray serve
--swap`; the run with it has to be finished).

  python benchmarks/chaos.py --minutes 6
  python benchmarks/chaos.py --minutes 6 --replicas 1
  python benchmarks/chaos.py --minutes 6 --change-index --swap-to engine.weights=fp32
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil
from drill import COLUMNS, Service, drive, faults, is_broken, options, outcome_rows, service
from drill_changes import Changes
from drill_client import BROKEN, CUT, Outcome
from harness import publish

PARTS = ("Retriever", "Generator", "Ingress")
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Kill:
    """One replica that was killed."""

    part: str
    at: float  # seconds of `time.monotonic`
    away_s: float | None  # until there were as many as before; None: not before the next kill


async def kill_replicas(of: Service, args: argparse.Namespace, until: float, kills: list[Kill]) -> None:
    """SIGKILL to a replica of each part in turn, at random times."""
    chance = Random(args.seed)
    turn = 0
    while (wait_s := chance.uniform(0.5, 1.5) * args.every) < until - time.monotonic() - args.every:
        await asyncio.sleep(wait_s)
        part = PARTS[turn % len(PARTS)]
        turn += 1
        running = of.replicas(part)
        if running:
            victim = chance.choice(running)
            victim.kill()
            at = time.monotonic()
            kills.append(Kill(part, at, await _back(of, part, victim, len(running), at + args.every)))


async def _back(of: Service, part: str, victim: psutil.Process, wanted: int, until: float) -> float | None:
    begun = time.monotonic()
    while time.monotonic() < until:
        if len([one for one in of.replicas(part) if one.pid != victim.pid]) >= wanted:
            return time.monotonic() - begun
        await asyncio.sleep(_LOOK_EVERY_S)
    return None


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """All parts apart; a generator does not need a processor of its own here."""
    return {
        "retriever": "deployment",
        "generator": "deployment",
        **{f"{part.lower()}_replicas": args.replicas for part in PARTS},
        "placement": {"generator": {"num_cpus": 0.5}},
        "drain_s": 10.0,
    }


def unexcused(seen: Sequence[Outcome], kills: Sequence[Kill]) -> list[Outcome]:
    """What must not happen: all faults but streams that end with an error event or are cut with their ingress."""

    def is_excused(one: Outcome) -> bool:
        lost = any(kill.part == "Ingress" and one.begun <= kill.at <= one.begun + one.seconds for kill in kills)
        return is_broken(one) and (one.fault.startswith(BROKEN) or (one.fault.startswith(CUT) and lost))

    return [one for one in seen if one.fault and not is_excused(one)]


def kill_rows(seen: Sequence[Outcome], kills: Sequence[Kill]) -> list[str]:
    """A row for each part."""
    rows = []
    for part in PARTS:
        of_part = [kill for kill in kills if kill.part == part]
        during = [one for one in seen if any(one.begun <= kill.at <= one.begun + one.seconds for kill in of_part)]
        broken, cut = (sum(one.fault.startswith(how) for one in during) for how in (BROKEN, CUT))
        away = [kill.away_s for kill in of_part if kill.away_s is not None]
        back = f"{statistics.median(away):.1f} ({max(away):.1f})" if away else ""
        slowest = max((one.seconds for one in during if not one.fault), default=0.0)
        rows.append(f"| {part} | {len(of_part)} | {len(during)} | {broken} | {cut} | {slowest:.1f} | {back} |")
    return rows


KILL_COLUMNS = (
    "part", "kills", "requests open then", "streams ended by an error event", "streams cut",
    "slowest that was answered, s", "new process after s, median (most)",
)  # fmt: skip


def main() -> None:
    """Serve, send, kill, judge."""
    parser = options(__doc__, minutes=6)
    parser.add_argument("--replicas", type=int, default=2, help="of each part")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two kills, on average")
    parser.add_argument("--change-index", action="store_true", help="serve an index that changes, and change it")
    parser.add_argument("--swap-to", metavar="SET", help="a.b=c override of the configuration to swap to")
    parser.add_argument("--swap-every", type=float, default=20.0, help="seconds between two changes or swaps")
    parser.set_defaults(users=12, think=0.1)
    args = parser.parse_args()
    seen: list[Outcome] = []
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory(prefix="ragray-drill-") as name:
        store = Path(name) / "store" if args.change_index else None
        with service(args, settings(args), store) as of:
            changes = Changes(of, args, store)

            async def trouble(until: float) -> None:
                await asyncio.gather(kill_replicas(of, args, until, kills), changes.run(until))

            asyncio.run(drive(of, args, trouble, seen))
    bad, strangers = unexcused(seen, kills), of.known.strangers()
    setting = (
        f"{args.minutes:g} minutes, {args.users} users who think {args.think:g} s, {args.replicas} replicas of each "
        f"part, a kill about every {args.every:g} s, seed {args.seed}"
        f"{changes.told()}; {len(bad)} requests failed without excuse, {len(strangers)} answers of unknown versions"
    )
    publish("chaos", setting, COLUMNS, outcome_rows(seen), not args.no_record)
    publish("chaos", "the replicas that were killed", KILL_COLUMNS, kill_rows(seen, kills), not args.no_record)
    for line in [*faults(seen), *changes.failed]:
        print(line)
    sys.exit(1 if bad or strangers or changes.failed else 0)


if __name__ == "__main__":
    main()
