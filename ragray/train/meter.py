"""What one worker measures of its steps, apart from what is the same in every run.

In: the rows that a worker computes and the clock. Out: a `RankStep` for each step, a line in the worker's own file in
the work folder (see `ranks`), so that no worker waits for another.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Literal

import torch

from ragray.errors import WorkError
from ragray.train.flops import StepWork
from ragray.train.packing import PackedRow
from ragray.train.ranks import RankStep, rank_file

Part = Literal["data_wait_s", "validation_s", "checkpoint_s", "report_s"]


class Meter:
    """Measures the steps of one worker."""

    def __init__(
        self,
        work_folder: Path,
        rank: int,
        workers: int,
        device: torch.device,
        work: StepWork | None,
        peak: float | None,
    ) -> None:
        self._rank, self._workers, self._device = rank, workers, device
        self._work, self._peak = work, peak
        file = rank_file(work_folder, rank)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = file.open("a", encoding="utf-8")
        if file.stat().st_size and not file.read_bytes().endswith(b"\n"):
            self._file.write("\n")  # a killed worker's last line, which may not take the next with it
        self.begin()

    def begin(self) -> None:
        """A step begins."""
        self._started = time.perf_counter()
        self._parts: dict[Part, float] = dict.fromkeys(("data_wait_s", "validation_s", "checkpoint_s", "report_s"), 0.0)
        self._tokens = self._padded = 0
        self._flops = 0.0

    @contextmanager
    def timing(self, part: Part) -> Iterator[None]:
        """Count the block's time as that part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] += time.perf_counter() - started

    def count(self, row: PackedRow) -> PackedRow:
        """Count a row that is trained on, and give it back."""
        answers = row.predict_at.numel()
        if answers:  # a row without examples has one token, which is not useful
            self._tokens += int(row.boundaries[-1])
            if self._work is not None:
                self._flops += self._work.flops(row.boundaries.diff().tolist(), answers)
        self._padded += row.token_ids.numel()
        return row

    def seconds(self) -> float:
        """Of the step so far, without validation, checkpoint and report."""
        passed = time.perf_counter() - self._started
        return passed - sum(spent for part, spent in self._parts.items() if part != "data_wait_s")

    def finish(self, step: int, seconds: float) -> RankStep:
        """The step ended: write it down.

        Args:
            step: from 1.
            seconds: what `seconds()` said when the step itself was done.

        Raises:
            WorkError: the worker's file cannot be written.
        """
        known = self._peak is not None and self._work is not None and seconds > 0
        found = RankStep(
            step=step,
            rank=self._rank,
            workers=self._workers,
            at=time.time(),
            seconds=seconds,
            **self._parts,
            tokens=self._tokens,
            padded_tokens=self._padded,
            memory_mib=_peak_memory_mib(self._device),
            mfu=self._flops / (seconds * self._peak) if known and self._peak else None,
        )
        try:
            self._file.write(json.dumps(asdict(found)) + "\n")
            self._file.flush()
        except OSError as error:
            raise WorkError(
                f"training: {self._file.name} cannot be written: {error.strerror}",
                "free space below `output`, then run the command again: it resumes from the last checkpoint",
            ) from error
        return found

    def close(self) -> None:
        """Nothing more will be measured."""
        self._file.close()


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
