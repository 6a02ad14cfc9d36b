"""Measuring cases against each other: each run in a fresh process, in alternating order, medians reported.

In: the cases of one script. Out: a table on the screen, and a dated Markdown section with hardware and versions
at the end of `benchmarks/results/<name>.md`. What a case does before its clock starts (imports, reading,
compiling) is not timed; what its processes take in all is given beside it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import describe_machine, tree_memory_mib

Outcome = Mapping[str, int | float | str]
Work = Callable[[], Callable[[], Outcome]]  # timed; what it returns is called after the clock has stopped

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_THREAD_SETTINGS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS", "ARROW_NUM_THREADS", "ARROW_IO_THREADS",
)  # fmt: skip
_SAMPLE_EVERY_S = 0.5
_WHOSE = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


@dataclass(frozen=True)
class Case:
    """One way of doing the work.

    `start` takes the options and returns the work to be timed; whatever it does itself is not timed. The work
    returns a function that tells small facts about its result, not timed either; they must be the same in every
    run. A case with `many_processes` has its memory sampled over the tree of its processes; its CPU time is that of
    the first process and of those that it waited for.
    """

    name: str
    start: Callable[[argparse.Namespace], Work]
    packages: tuple[str, ...] = ()
    note: str = ""
    many_processes: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether this is the project's own case, which peers are compared with."""
        return self.name.startswith("ragray")


@dataclass
class Runs:
    """What the runs of one case gave. `absent` says why there is none."""

    reports: list[dict[str, Any]] = field(default_factory=list)
    absent: str = ""

    def of(self, key: str) -> list[float]:
        """One measure of all runs."""
        return [report[key] for report in self.reports]

    def median(self, key: str) -> float:
        """The median of one measure."""
        return statistics.median(self.of(key))


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=(description or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="runs of each case")
    parser.add_argument("--cases", default="", help="only these cases, comma-separated")
    parser.add_argument("--threads", type=int, default=1, help="threads of each library")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds after which a run is given up")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter with benchmarks/requirements.txt")
    parser.add_argument("--no-record", action="store_true", help="only print, write nothing below benchmarks/results")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # set for the process of one run
    parser.add_argument("--report", help=argparse.SUPPRESS)
    return parser


def record_options(description: str | None, threshold: float | None = None) -> argparse.ArgumentParser:
    """The same for a benchmark on records, with `threshold` the default where near-duplicates are looked for."""
    parser = options(description)
    parser.add_argument("--records", type=Path, required=True, help="Parquet or JSONL with question and answer")
    parser.add_argument("--count", type=int, help="only the first so many records")
    if threshold is not None:
        helped = "Jaccard similarity from which two are one"
        parser.add_argument("--threshold", type=float, default=threshold, help=helped)
    return parser


def main(name: str, cases: Sequence[Case], parser: argparse.ArgumentParser) -> None:
    """Run one case if the command line names one for this process, else all of them, and report."""
    args = parser.parse_args()
    if args.case:
        Path(args.report).write_text(json.dumps(_run_here(next(c for c in cases if c.name == args.case), args)))
        return
    wanted = [part for part in args.cases.split(",") if part]
    unknown = set(wanted) - {case.name for case in cases}
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(case.name for case in cases)}")
    chosen = [case for case in cases if not wanted or case.name in wanted]
    section = _section(name, chosen, _run_all(chosen, args), args)
    print(section)
    if not args.no_record:
        record(name, section)


def record(name: str, section: str) -> None:
    """Append a section to the results of a benchmark."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.md").open("a", encoding="utf-8") as file:
        file.write(section + "\n")


def publish(name: str, setting: str, columns: Sequence[str], rows: Sequence[str], keep: bool) -> None:
    """Print a section with a table, and keep it with the results of a benchmark.

    Args:
        name: of the benchmark.
        setting: what was measured with what.
        columns: the table's head.
        rows: its rows, in Markdown.
        keep: whether the section is written to a file.
    """
    section = [
        f"## {name}, {time.strftime('%Y-%m-%d %H:%M')}", "",
        *(f"- {line}" for line in describe_machine(ROOT)),
        f"- {setting}", "",
        f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *rows, "",
    ]  # fmt: skip
    print("\n".join(section))
    if keep:
        record(name, "\n".join(section))


def _run_here(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    versions = {}
    for package in case.packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return {"absent": f"not installed: {package}"}
    work = case.start(args)
    cpu, begin = _cpu_s(), time.perf_counter()
    facts = work()
    wall, cpu = time.perf_counter() - begin, _cpu_s() - cpu
    peak = max(resource.getrusage(who).ru_maxrss for who in _WHOSE) / 1024
    return {"cpu_s": cpu, "wall_s": wall, "peak_mib": peak, "outcome": dict(facts()), "versions": versions}


def _cpu_s() -> float:
    """CPU time so far of this process and of the ended ones that it waited for."""
    used = [resource.getrusage(who) for who in _WHOSE]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _run_all(cases: Sequence[Case], args: argparse.Namespace) -> dict[str, Runs]:
    """All runs, one round after the other, every second round backwards."""
    runs = {case.name: Runs() for case in cases}
    for number in range(args.runs):
        for case in cases if number % 2 == 0 else reversed(cases):
            of_case = runs[case.name]
            if of_case.absent:
                continue
            report = _run_apart(case, args)
            if "absent" in report:
                of_case.absent = report["absent"]
                print(f"{case.name}: {of_case.absent}", file=sys.stderr, flush=True)
                continue
            of_case.reports.append(report)
            print(f"{case.name} {number + 1}/{args.runs}: {report['cpu_s']:.2f} s CPU", file=sys.stderr, flush=True)
    return runs


def _run_apart(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own."""
    python = sys.executable if case.is_ours else args.peers_python
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")] if case.is_ours else []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [python, *sys.argv, "--case", case.name, "--report", str(report)]
        environment = {**os.environ, **dict.fromkeys(_THREAD_SETTINGS, str(args.threads)), "PYTHONHASHSEED": "0"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        with (Path(folder) / "output").open("w+b") as output:
            begin = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            sampled = _wait(process, args.timeout, case.many_processes)
            took = time.perf_counter() - begin
            if not report.exists():
                return {"absent": _failure(process, output, args.timeout)}
        found: dict[str, Any] = json.loads(report.read_text())
    found["process_s"] = took
    if sampled:
        found["peak_mib"] = sampled
    return found


def _wait(process: subprocess.Popen[bytes], timeout: float, sample: bool) -> float:
    """Wait for a process; the peak memory of its tree in MiB, 0 where it was not sampled."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_SAMPLE_EVERY_S):
            peak = max(peak, tree_memory_mib(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    if sample:
        watcher.start()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        pass
    finally:  # the user's interrupt does not reach the session that the process leads
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    done.set()
    return peak


def _failure(process: subprocess.Popen[bytes], output: Any, timeout: float) -> str:
    if process.returncode == -9:
        return f"given up after {timeout:.0f} s, or killed for its memory"
    output.seek(0)
    lines = [line for line in output.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return f"failed with exit code {process.returncode}: {lines[-1][:300] if lines else 'no output'}"


def _section(name: str, cases: Sequence[Case], runs: Mapping[str, Runs], args: argparse.Namespace) -> str:
    """A Markdown section with everything that a reader needs to judge the figures."""
    versions: dict[str, str] = {}
    for of_case in runs.values():
        for report in of_case.reports:
            versions.update(report["versions"])
    listed = ", ".join(f"{package} {version}" for package, version in sorted(versions.items()))
    hidden = {"case", "report", "no_record", "peers_python", "cases", "runs"}
    setting = ", ".join(
        f"{key} {value.name if isinstance(value, Path) else value}"
        for key, value in vars(args).items()
        if key not in hidden and value is not None
    )
    lines = [
        f"## {name}, {time.strftime('%Y-%m-%d %H:%M')}",
        "",
        *(f"- {line}" for line in describe_machine(ROOT)),
        f"- versions: {listed}",
        f"- {setting}; median (least to most) of {args.runs} runs in alternating order, a fresh process each",
        "",
        "| case | CPU s | wall s | records/s of CPU | peak MiB | whole process s | times the CPU / wall of ragray |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = next((runs[case.name] for case in cases if case.is_ours and runs[case.name].reports), None)
    lines += [_row(case, runs[case.name], ours) for case in cases]
    lines += ["", *(_facts(case, runs[case.name]) for case in cases), ""]
    return "\n".join(lines)


def _row(case: Case, runs: Runs, ours: Runs | None) -> str:
    if not runs.reports or runs.absent:
        return f"| {case.name} | {runs.absent} | | | | | |"
    cpu, wall = (
        f"{runs.median(key):.3f} ({min(runs.of(key)):.3f} to {max(runs.of(key)):.3f})" for key in ("cpu_s", "wall_s")
    )
    rows = runs.reports[0]["outcome"].get("rows", 0)
    speed = f"{rows / max(runs.median('cpu_s'), 1e-9):,.0f}"
    shares = [f"{runs.median(key) / max(ours.median(key), 1e-9):.2f}" for key in ("cpu_s", "wall_s")] if ours else ["-"]
    memory, process = f"{runs.median('peak_mib'):,.0f}", f"{runs.median('process_s'):.1f}"
    return f"| {case.name} | {cpu} | {wall} | {speed} | {memory} | {process} | {' / '.join(shares)} |"


def _facts(case: Case, runs: Runs) -> str:
    """What the case gave, and a warning where its runs did not give the same."""
    outcomes = [report["outcome"] for report in runs.reports]
    facts = ", ".join(f"{key} {value}" for key, value in outcomes[0].items()) if outcomes else runs.absent
    unsteady = "" if all(outcome == outcomes[0] for outcome in outcomes) else "; NOT THE SAME IN EVERY RUN"
    return f"- {case.name}: {facts}{unsteady}{'. ' + case.note if case.note else ''}"
