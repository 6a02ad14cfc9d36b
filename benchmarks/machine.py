"""What a measurement was taken on: hardware, system, versions, load; and the memory of a tree of processes."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def describe_machine(repository: Path) -> list[str]:
    """Lines on processor, memory, system, load and the state of the sources."""
    model = _field(Path("/proc/cpuinfo"), "model name") or platform.processor()
    memory = int((_field(Path("/proc/meminfo"), "MemTotal") or "0").split()[0]) / 2**20
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        f"{model}, {len(os.sched_getaffinity(0))} CPUs usable, {memory:.0f} GiB; load average {load}",
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, commit {_commit(repository)}",
    ]


def tree_memory_mib(pid: int) -> float:
    """Memory of a process and all below it, shared pages counted once (proportional set size), MiB."""
    total, waiting = 0.0, [pid]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        try:
            waiting += [int(child) for task in (folder / "task").iterdir() for child in _children(task)]
            total += int((_field(folder / "smaps_rollup", "Pss") or "0").split()[0]) / 1024
        except OSError:  # it ended meanwhile
            continue
    return total


def _children(task: Path) -> list[str]:
    return (task / "children").read_text().split()


def _field(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _commit(repository: Path) -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    found = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
