"""What a training worker computes on.

In: the machine. Out: a `Device`; and `Choice`, for what is chosen because of it.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ragray.errors import ConfigError
from ragray.train import varlen

AMPERE = (8, 0)  # compute capability: the first with bf16, and with flash attention
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Device:
    """What a training worker computes on."""

    kind: Literal["cpu", "cuda"]
    name: str
    memory_bytes: int  # of one GPU, or of the machine, which all its workers share
    capability: tuple[int, int] | None = None  # of a GPU
    kernels: tuple[varlen.Kernel, ...] = ("sdpa",)  # of attention, that are installed
    host_bytes: int | None = None  # of the machine that a GPU is in; None: not known


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that was chosen, and why."""

    value: str
    reason: str


def this_device(use_gpu: bool) -> Device:
    """The GPU of this process, or this machine's CPU.

    Raises:
        ConfigError: there is no GPU.
    """
    if not use_gpu:
        return Device("cpu", platform.processor() or platform.machine(), _machine_memory())
    if not torch.cuda.is_available():
        raise ConfigError("train.use_gpu: this machine has no GPU that torch can use", "set train.use_gpu=false")
    facts = torch.cuda.get_device_properties(0)
    capability = (facts.major, facts.minor)
    return Device("cuda", facts.name, facts.total_memory, capability, varlen.here(), _machine_memory())


def _machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process runs in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text(encoding="utf-8").strip() if _CGROUP_LIMIT.is_file() else "max"
    return physical if limit == "max" else min(physical, int(limit))
