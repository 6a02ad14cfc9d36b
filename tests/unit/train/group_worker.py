"""One of several training workers without Ray: reads jobs as JSON lines, answers each with a line.

A job is a `TrainRun` with, where a test asks for it, a fault: `die_at`, a piece of the path at whose flush this
process kills itself; `full_disk`, which makes the worker's files unwritable; and `fails`, [rank, module, name, call]:
on that worker, that call of that function, counted from 1, raises an error of ragray's.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch

from ragray.config_train import TrainConfig
from ragray.errors import RagrayError, WorkError
from ragray.train import writing
from ragray.train.loop import TrainRun, train

_fsync, _write_shard = os.fsync, writing.write_shard


def with_faults(die_at: str, full_disk: bool) -> None:
    def fsync(handle: int) -> None:
        if die_at and die_at in str(Path(f"/proc/self/fd/{handle}").readlink()):
            os.kill(os.getpid(), signal.SIGKILL)
        _fsync(handle)

    def write_shard(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    os.fsync = fsync
    writing.write_shard = write_shard if full_disk else _write_shard


@contextmanager
def failing(where: tuple[int, str, str, int] | None):
    if where is None or where[0] != torch.distributed.get_rank():
        yield
        return
    _, module, path, call = where
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    whole, calls = getattr(owner, name), []

    def fails(*arguments: object, **named: object) -> object:
        calls.append(name)
        if len(calls) == call:
            raise WorkError(f"{name} fails on this worker alone", "this is a test")
        return whole(*arguments, **named)

    setattr(owner, name, fails)
    try:
        yield
    finally:
        setattr(owner, name, whole)


def work(job: dict) -> str:
    with_faults(job.pop("die_at", ""), job.pop("full_disk", -1) == torch.distributed.get_rank())
    fails = job.pop("fails", None)
    try:
        with failing(fails):
            train(TrainRun(**{**job, "settings": TrainConfig.model_validate(job["settings"])}))
    except RagrayError as error:
        return f"{type(error).__name__}: {error.message}"
    except Exception:  # noqa: BLE001  the test shows it
        return traceback.format_exc().replace("\n", " | ")
    return "done"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    rank, world_size, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", timeout=timedelta(seconds=120), rank=rank, world_size=world_size
    )
    for line in sys.stdin:
        print(work(json.loads(line)), file=answers, flush=True)


if __name__ == "__main__":
    main()
