"""The real command, as a user runs it, and the demo's chain with smaller settings."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SMALL = (
    "train.max_steps=6",
    "train.checkpoint_every_steps=2",
    "augment.variants_per_question=1",
    "evaluate.max_questions=12",
    "evaluate.max_new_tokens=24",
    "quantize.methods=[bitsandbytes_int8, openvino_int8]",
    "quantize.max_questions=6",
    "quantize.held_out_prompts=4",
)


def ragray(*arguments: str, cwd: Path = ROOT, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a user does."""
    command = [sys.executable, "-m", "ragray.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def start(*arguments: str, merge_streams: bool = False) -> subprocess.Popen[str]:
    """Start the command in its own process group, Ctrl-C effective (a background shell hands SIGINT down ignored)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "ragray.cli", *arguments], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge_streams else subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def overrides(output: Path, extra: Sequence[str] = ()) -> list[str]:
    return [part for item in (f"output={output}", *SMALL, *extra) for part in ("--set", item)]


@dataclass(frozen=True)
class SmallRun:
    """A finished small run: its folder and what `ragray run --json` printed."""

    output: Path
    outcomes: dict[str, Any]

    @property
    def options(self) -> list[str]:
        return ["--config", "configs/demo.yaml", *overrides(self.output)]


def run_small(output: Path) -> SmallRun:
    done = ragray("run", "--config", "configs/demo.yaml", *overrides(output), "--json")
    assert done.returncode == 0, done.stderr
    return SmallRun(output, json.loads(done.stdout))


def kill_group(process: subprocess.Popen[str], sig: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process and all that it started."""
    os.killpg(process.pid, sig)
    process.wait(timeout=60)
