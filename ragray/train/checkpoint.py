"""Checkpoints that a run resumes from as if it had never stopped.

In: weights, optimizer moments, history, position. Out: `checkpoints/step-00000050/` in the work folder,
written aside by all workers and renamed by the first, so that a checkpoint is whole or absent:

    adapter/                       the weights, PEFT layout, float32     first worker
    moments-00000-of-00002.safetensors   AdamW's moments, by name        every worker a share
    state.json                     step, counts                          first worker
    history.parquet timings.parquet      the monitor                     first worker

Any world size and ZeRO stage reads any checkpoint. The random state needs no file: the order of the
data and the seed of each step's dropout are functions of seed, step and worker.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ragray.config_train import LoraConfig
from ragray.errors import ArtifactError
from ragray.train.lora import load_adapter, save_adapter
from ragray.train.monitor import History

ADAPTER = "adapter"
STATE = "state.json"


@dataclass(frozen=True)
class RunState:
    """Where the run stands, and what it counted."""

    step: int  # optimizer steps done
    total_steps: int
    counts: Mapping[str, int]

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
        return RunState(**json.loads((self.folder / STATE).read_text(encoding="utf-8")))

    def weights(self) -> dict[str, torch.Tensor]:
        """The adapter's weights by name."""
        return load_adapter(self.folder / ADAPTER)

    def moments(self) -> dict[str, torch.Tensor]:
        """The optimizer's moments by `name/moment`, from the shares of all workers that wrote them."""
        from safetensors.torch import load_file

        shares = sorted(self.folder.glob("moments-*.safetensors"))
        if not shares or len(shares) != int(shares[0].stem.rpartition("-")[2]):
            raise ArtifactError(f"{self.folder}: shares of the optimizer's state are missing", "remove this folder")
        return {name: tensor for share in shares for name, tensor in load_file(share).items()}

    def history(self) -> History:
        """The monitor's records up to this step."""
        return History.load(self.folder)


class Checkpoints:
    """The checkpoints of one run. `attempt` keeps apart what a dead run may still be writing."""

    def __init__(self, work_folder: Path, attempt: str, keep: int) -> None:
        self._folder = work_folder / "checkpoints"
        self._attempt = attempt
        self._keep = keep

    def latest(self) -> Checkpoint | None:
        """The checkpoint with the most steps."""
        found = self._all()
        return Checkpoint(found[-1]) if found else None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint after `step` steps."""
        return Checkpoint(self._folder / f"step-{step:08d}")

    def write(
        self,
        state: RunState,
        history: History,
        weights: Mapping[str, torch.Tensor],
        moments: Iterable[tuple[str, torch.Tensor]],
        settings: LoraConfig,
        base_model: str,
    ) -> None:
        """Write a checkpoint; a collective of all workers, since `moments` gathers as it is consumed."""
        from safetensors.torch import save_file

        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        target = self._folder / f"step-{state.step:08d}"
        aside = self._folder / f".{target.name}.{self._attempt}"
        if rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        torch.distributed.barrier()
        share = {name: tensor for number, (name, tensor) in enumerate(moments) if number % world_size == rank}
        save_file(share, aside / f"moments-{rank:05d}-of-{world_size:05d}.safetensors")
        if rank == 0:
            save_adapter(weights, settings, base_model, aside / ADAPTER)
            history.save(aside)
            (aside / STATE).write_text(json.dumps(asdict(state), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        torch.distributed.barrier()
        if rank == 0:
            _publish(aside, target)
            self._forget_old()

    def _all(self) -> list[Path]:
        return sorted(folder for folder in self._folder.glob("step-*") if folder.is_dir())

    def _forget_old(self) -> None:
        for folder in self._all()[: -self._keep]:
            gone = folder.with_name(f".{folder.name}.{self._attempt}.gone")
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _publish(aside: Path, target: Path) -> None:
    """Rename into place; where a checkpoint of this step exists, it says the same."""
    if target.exists():
        shutil.rmtree(aside)
    else:
        aside.rename(target)
