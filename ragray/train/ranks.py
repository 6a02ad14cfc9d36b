"""What the workers measured of their steps: a file of each while they work, one table in the end.

In: `ranks/00000.jsonl` and so on in a run's work folder, each written by its worker alone. Out: ranks.parquet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

RANKS = "ranks.parquet"
_FOLDER = "ranks"


@dataclass(frozen=True, slots=True)
class RankStep:
    """One step of one worker."""

    step: int
    rank: int
    workers: int
    at: float  # seconds since 1970, at the step's end
    seconds: float  # of the step itself, without validation, checkpoint and report
    data_wait_s: float  # of them, choosing and packing the examples
    validation_s: float
    checkpoint_s: float  # for which the step's end waited
    report_s: float
    tokens: int  # of this worker's examples
    padded_tokens: int  # that the model computed: packing pads nothing, but a row without any example has one token
    memory_mib: float  # most so far: of the GPU's memory what PyTorch used, on a CPU the process's resident memory
    mfu: float | None  # model FLOPs a second over the device's peak; None where the peak or the FLOPs are not known


_SCHEMA = pa.schema(
    [
        (f.name, pa.int64() if f.name in ("step", "rank", "workers", "tokens", "padded_tokens") else pa.float64())
        for f in fields(RankStep)
    ]
)


def rank_file(work_folder: Path, rank: int) -> Path:
    """Where a worker writes its steps, a JSON object on each line."""
    return work_folder / _FOLDER / f"{rank:05d}.jsonl"


def join_ranks(work_folder: Path) -> list[RankStep]:
    """What all workers wrote, by step and rank; of a step that was done again after a restart, the last time.

    A line that a killed worker left unfinished is passed over, as is a worker that was no longer there the last time.
    """
    found: dict[tuple[int, int], RankStep] = {}
    for file in sorted((work_folder / _FOLDER).glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                made = RankStep(**json.loads(line))
            except json.JSONDecodeError:
                continue
            found[made.step, made.rank] = made
    newest: dict[int, RankStep] = {}
    for made in found.values():
        if made.step not in newest or made.at > newest[made.step].at:
            newest[made.step] = made
    return [found[key] for key in sorted(found) if key[1] < newest[key[0]].workers]


def save_ranks(ranks: list[RankStep], folder: Path) -> None:
    """Write ranks.parquet."""
    columns = {name: [getattr(made, name) for made in ranks] for name in _SCHEMA.names}
    pq.write_table(pa.table(columns, schema=_SCHEMA), folder / RANKS, compression="zstd")


def load_ranks(folder: Path) -> list[RankStep]:
    """Read what `save_ranks` wrote; nothing where there is none."""
    file = folder / RANKS
    return [RankStep(**row) for row in pq.read_table(file).to_pylist()] if file.exists() else []
