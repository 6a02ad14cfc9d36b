"""Tokenizing the training examples with Ray Data, once for a run.

In: a `TokenSource`. Out: the whole token store in the run's work folder, which all workers map. A task makes some
parts that lie beside each other, so that it reads its stretch of the examples once; as many tasks as the cluster has
processors. Parts that a killed run finished are not made again.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa

from ragray import errors
from ragray.distributed.session import connect
from ragray.train.token_store import TokenSource, make_store, write_parts

_PARTS = "parts"


def make_tokens(source: TokenSource, work_folder: Path, tasks: int | None = None) -> Path:
    """The folder of the whole store; its bytes do not depend on `tasks`, by default one for each processor.

    Raises:
        EngineError: the tokenizer or its chat template cannot be used.
        WorkError: the disk is full, or a node wrote its parts where this process does not see them.
    """
    return make_store(source, work_folder, functools.partial(_write_with_ray, tasks=tasks))


def _write_with_ray(source: TokenSource, folder: Path, numbers: Collection[int], tasks: int | None) -> None:
    if len(numbers) == 1:  # nothing to share out, and no task to wait for
        write_parts(source, folder, numbers)
        return
    connect()
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    wanted = tasks or max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    stretches = [part.tolist() for part in np.array_split(np.array(sorted(numbers)), min(wanted, len(numbers)))]
    listed = ray.data.from_items([{_PARTS: stretch} for stretch in stretches], override_num_blocks=len(stretches))
    work = functools.partial(_write, source, folder.absolute())
    for outcome in listed.map_batches(work, batch_size=1, batch_format="pyarrow").take_all():
        if outcome["kind"]:
            raise getattr(errors, outcome["kind"])(outcome["message"], outcome["fix"])


def _write(source: TokenSource, folder: Path, batch: pa.Table) -> pa.Table:
    """Make the parts of each stretch; one row each with the error that came up, or ""."""
    outcomes: list[dict[str, str]] = []
    for numbers in batch.column(_PARTS).to_pylist():
        outcomes.append({"kind": "", "message": "", "fix": ""})
        try:
            write_parts(source, folder, numbers)
        except errors.RagrayError as error:  # as data: Ray Data would bury an exception's cause
            outcomes[-1] = {"kind": type(error).__name__, "message": error.message, "fix": error.fix}
    return pa.Table.from_pylist(outcomes)
