"""Checkpoints that a run resumes from as if it had never stopped.

In: each worker's shard, the history, the position. Out: `checkpoints/step-00000050/` in the work folder,
written aside by all workers and renamed by the first, so that a checkpoint is whole or absent:

    adapter/                       the weights, PEFT layout, float32     first worker
    moments-00000-of-00002.safetensors   AdamW's moments, by name        every worker its own
    state.json                     step, counts, bad steps, loss scale   first worker
    history.parquet timings.parquet      the monitor                     first worker

Any world size and ZeRO stage reads any checkpoint. The random state needs no file: the order of the
data and the seed of each step's dropout are functions of seed, step and worker. `writing.py` writes them.
"""

from __future__ import annotations

import json
import math
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ragray.artifact import sync
from ragray.train.guard import BadStep
from ragray.train.lora import load_adapter
from ragray.train.loss_scale import LossScale
from ragray.train.monitor import History
from ragray.train.shards import read_shards

ADAPTER = "adapter"
STATE = "state.json"


@dataclass(frozen=True)
class RunState:
    """Where the run stands, and what it counted."""

    step: int  # steps done, those left out by the guard too
    total_steps: int
    counts: Mapping[str, int]
    updates: int  # optimizer steps made: what AdamW counts
    valid_loss: float | None = None  # of exactly these weights, where it was measured
    bad_steps: tuple[BadStep, ...] = ()
    loss_scale: LossScale | None = None  # of fp16

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.step >= self.total_steps


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path

    def state(self) -> RunState:
        """Step and counts."""
        values = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        bad_steps = tuple(BadStep(**{**bad, "examples": tuple(bad["examples"])}) for bad in values.pop("bad_steps"))
        scale = values.pop("loss_scale")
        return RunState(**values, bad_steps=bad_steps, loss_scale=scale and LossScale(**scale))

    def weights(self) -> dict[str, torch.Tensor]:
        """The adapter's weights by name."""
        return load_adapter(self.folder / ADAPTER)

    def moments(self) -> dict[str, torch.Tensor]:
        """The optimizer's moments by `name/moment`, from the shares of all workers that wrote them."""
        return read_shards(self.folder, "moments")

    def history(self) -> History:
        """The monitor's records up to this step."""
        return History.load(self.folder)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        work_folder: of the run.
        keep: how many of the latest stay.
        keep_best: how many of those with the lowest validation loss stay beside them.
    """

    def __init__(self, work_folder: Path, keep: int, keep_best: int = 0) -> None:
        self._folder = work_folder / "checkpoints"
        self._keep = keep
        self._keep_best = keep_best

    def latest(self) -> Checkpoint | None:
        """The checkpoint with the most steps."""
        found = self._all()
        return found[-1] if found else None

    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest validation loss; of equals the earliest."""
        ranked = self._ranked()
        return ranked[0] if ranked else None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint after `step` steps."""
        return Checkpoint(self._folder / f"step-{step:08d}")

    def aside(self, step: int, attempt: str) -> Path:
        """Where `attempt` writes the checkpoint after `step` steps, before it is whole."""
        return self._folder / f".step-{step:08d}.{attempt}"

    def publish(self, aside: Path, step: int) -> None:
        """Give a whole checkpoint its name and forget old ones; where this step has one, that says the same."""
        target = self.at(step).folder
        if target.exists():
            shutil.rmtree(aside)
        else:
            sync(aside)
            aside.rename(target)
            sync(self._folder)
        self._forget_old()

    def clear_dead(self) -> None:
        """Remove what attempts that were killed left unfinished; call it when none other is running.

        A worker whose node was lost may take a moment to end: a folder that is still to get its name is renamed
        before it is removed, so that no part of it ever gets that name.
        """
        for folder in self._folder.glob(".step-*"):
            _remove(folder)

    def _all(self) -> list[Checkpoint]:
        return [Checkpoint(folder) for folder in sorted(self._folder.glob("step-*")) if folder.is_dir()]

    def _ranked(self) -> list[Checkpoint]:
        losses = [(checkpoint.state().valid_loss, checkpoint) for checkpoint in self._all()]
        measured = [(loss, checkpoint) for loss, checkpoint in losses if loss is not None and math.isfinite(loss)]
        return [checkpoint for _, checkpoint in sorted(measured, key=lambda pair: pair[0])]

    def _forget_old(self) -> None:
        stay = {checkpoint.folder for checkpoint in (*self._all()[-self._keep :], *self._ranked()[: self._keep_best])}
        for checkpoint in self._all():
            if checkpoint.folder not in stay:
                _remove(checkpoint.folder)


def _remove(folder: Path) -> None:
    """Remove a folder that another process may be about to rename, whole or not at all."""
    gone = folder.with_name(f".{folder.name.strip('.')}.{uuid.uuid4().hex[:8]}.gone")
    try:
        folder.rename(gone)
    except FileNotFoundError:  # the other process was first
        return
    shutil.rmtree(gone, ignore_errors=True)
