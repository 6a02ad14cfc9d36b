"""Writing checkpoints beside the steps.

In: at a checkpoint, each worker's shard as a copy in memory. Out: the same in the checkpoint folder, written
by a thread. The first worker's thread waits for the files of all, puts the adapter together from them and gives
the checkpoint its name. Steps wait only if the checkpoint before is not yet written.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import torch.distributed

from ragray.artifact import sync
from ragray.config_train import TrainConfig
from ragray.errors import RagrayError, WorkError
from ragray.train.checkpoint import ADAPTER, STATE, Checkpoints, RunState
from ragray.train.lora import save_adapter
from ragray.train.monitor import History
from ragray.train.shards import KINDS, WEIGHT, Shard, all_written, read_shards, write_shard
from ragray.train.together import raise_alike
from ragray.train.validations import Validations

_POLL_SECONDS = 0.02


class CheckpointWriter:
    """One worker's writer; `save` and `finish` are collectives, in which a failed write is raised by all.

    Args:
        checkpoints: of the run.
        attempt: the same on all workers, and never used before: it keeps apart what a dead group left.
        settings: of the adapter's record.
    """

    def __init__(self, checkpoints: Checkpoints, attempt: str, settings: TrainConfig) -> None:
        self._checkpoints = checkpoints
        self._attempt = attempt
        self._settings = settings
        self._rank, self._world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="checkpoint")
        self._closed = threading.Event()
        self._share: Future[None] | None = None
        self._whole: Future[None] | None = None

    def save(self, state: RunState, history: History, shard: Shard, validations: Validations | None = None) -> None:
        """Start writing a checkpoint; waits for the one before.

        Args:
            state: where the run stands.
            history: its steps.
            shard: this worker's.
            validations: where the adapter is set aside, if it is to be validated.

        Raises:
            WorkError: the one before could not be written.
        """
        self.finish()
        aside = self._checkpoints.aside(state.step, self._attempt)
        self._share = self._threads.submit(self._write_share, aside, shard)
        if self._rank == 0:
            frozen = replace(history, records=list(history.records), seconds=list(history.seconds))
            self._whole = self._threads.submit(self._publish, aside, state, frozen, validations)

    def finish(self) -> None:
        """Wait until what was begun is a whole checkpoint.

        Raises:
            WorkError: it could not be written.
        """
        raise_alike(_outcome(self._share))
        raise_alike(_outcome(self._whole))

    def failed(self) -> bool:
        """Whether this worker's part is known to have failed; `finish` says how."""
        return any(future is not None and future.done() and future.exception() for future in (self._share, self._whole))

    def close(self) -> None:
        """Stop waiting for other workers."""
        self._closed.set()
        self._threads.shutdown(wait=False)

    def _write_share(self, aside: Path, shard: Shard) -> None:
        aside.mkdir(parents=True, exist_ok=True)
        write_shard(shard, aside, self._rank, self._world_size)

    def _publish(self, aside: Path, state: RunState, history: History, validations: Validations | None) -> None:
        while not all_written(aside, self._world_size):
            if self._closed.wait(_POLL_SECONDS):
                return
        named = {key.removesuffix(f"/{WEIGHT}"): tensor for key, tensor in read_shards(aside, "weights").items()}
        save_adapter(named, self._settings.lora, self._settings.base_model, aside / ADAPTER)
        history.save(aside)
        (aside / STATE).write_text(json.dumps(asdict(state), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for path in aside.glob("weights-*.safetensors"):  # the adapter says the same
            path.unlink()
        for path in aside.rglob("*"):
            if not path.name.startswith(tuple(KINDS)):
                sync(path)
        if validations is not None:
            validations.set_aside(state.step, aside / ADAPTER)
        self._checkpoints.publish(aside, state.step)


def _outcome(future: Future[None] | None) -> RagrayError | None:
    """What the thread failed with, in ragray's words; waits for it."""
    error = None if future is None else future.exception()
    if error is None or isinstance(error, RagrayError):
        return error
    return WorkError(
        f"training: a checkpoint could not be written: {error}",
        "free space below `output`, or permit writing there, then run the command again: it resumes from the "
        "checkpoint before",
    )
