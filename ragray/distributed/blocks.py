"""Reading and cleaning with Ray Data: parts of the input become blocks on disk.

In: parts of files. Out: a finished block for each of them in a folder that all nodes see. A part is read and
cleaned by one task; blocks that are there already are not made again. Workers import this module, so it imports
nothing that they do not need.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ragray.artifact import explain_os_error
from ragray.config_data import DataConfig
from ragray.dataprep.blocks import BLOCK_ROWS, Blocks, Part, write_block, write_plain
from ragray.dataprep.read import FaqFile, parts_of
from ragray.distributed.session import connect
from ragray.distributed.task_errors import run_tasks
from ragray.errors import DataError, WorkError

_PART = "part"


def list_parts(files: Sequence[FaqFile]) -> list[Part]:
    """The parts of all files, in source order."""
    return [Part(n, m, content) for n, file in enumerate(files) for m, content in enumerate(parts_of(file))]


def write_blocks(parts: Sequence[Part], folder: Path, settings: DataConfig, block_rows: int = BLOCK_ROWS) -> None:
    """Make the blocks of all parts with Ray Data; the blocks' rows do not depend on `block_rows`.

    Raises:
        DataError: a file cannot be used.
        WorkError: the disk is full, or a node wrote its block where this process does not see it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = [n for n, part in enumerate(parts) if not (folder / f"{part.name}.json").exists()]
    if left:
        connect()
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        listed = ray.data.from_items([{_PART: n} for n in left], override_num_blocks=len(left))
        work = functools.partial(_write, list(parts), folder.absolute(), settings, block_rows)
        for outcome in listed.map_batches(work, batch_size=1, batch_format="pyarrow").take_all():
            if outcome["message"]:
                raise WorkError(outcome["message"], outcome["fix"])
    missing = [part.name for part in parts if not (folder / f"{part.name}.json").exists()]
    if missing:
        raise WorkError(
            f"{folder}: blocks {', '.join(missing[:3])} were written elsewhere",
            "set output to a folder that all nodes of the cluster share",
        )
    for tally in Blocks(folder, [part.name for part in parts]).tallies:
        if tally["fault"]:
            for part in parts:  # a fault may pass, so that a later run has to try again
                if json.loads((folder / f"{part.name}.json").read_text())["fault"]:
                    (folder / f"{part.name}.json").unlink()
            raise DataError(*tally["fault"])


def take_boilerplate(blocks: Blocks, settings: DataConfig) -> Blocks:
    """The blocks without lines that stand in many answers of all of them, each block done by one task."""
    lines = blocks.boilerplate(settings)
    if len(lines):
        run_tasks("boilerplate", write_plain, [(blocks, n, lines, settings) for n in range(len(blocks.names))])
    return Blocks(blocks.folder, blocks.names)


def _write(parts: Sequence[Part], folder: Path, settings: DataConfig, block_rows: int, batch: pa.Table) -> pa.Table:
    """Make the block of each part; one row each with the message and the fix of what went wrong, or ""."""
    outcomes: list[dict[str, str]] = []
    for number in batch.column(_PART).to_pylist():
        outcomes.append({"message": "", "fix": ""})
        try:
            write_block(parts[number], folder, settings, block_rows)
        except OSError as error:  # as data: Ray Data would bury an exception's cause
            explained = explain_os_error(error, str(folder))
            outcomes[-1] = {"message": explained.message, "fix": explained.fix}
    return pa.Table.from_pylist(outcomes)
