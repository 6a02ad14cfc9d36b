"""What the machine is, and which number format and attention follow from it.

In: the machine, and settings that say "auto". Out: a `Device`, and settings with the choice and its reason.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ragray.config_train import TrainConfig
from ragray.errors import ConfigError
from ragray.train.loading import Precision, load_tokenizer
from ragray.train.lora import with_token_ids

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_BF16_FROM = (8, 0)  # compute capability; Ampere
_FP16_FROM = (7, 0)  # tensor cores


@dataclass(frozen=True, slots=True)
class Device:
    """What a training worker computes on."""

    kind: Literal["cpu", "cuda"]
    name: str
    memory_bytes: int  # of one GPU, or of the machine, which all its workers share
    capability: tuple[int, int] | None = None  # of a GPU


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
    return Device("cuda", facts.name, facts.total_memory, (facts.major, facts.minor))


def choose_precision(settings: TrainConfig, device: Device) -> Choice:
    """The number format of training: the configured one, or what suits the device."""
    if settings.precision != "auto":
        return Choice(settings.precision, "train.precision says so")
    if device.capability is None:
        return Choice("fp32", "a CPU; bf16 halves the weights' memory, but most CPUs are slower with it")
    version = ".".join(map(str, device.capability))
    if device.capability >= _BF16_FROM:
        return Choice("bf16", f"compute capability {version} has bf16, whose range needs no loss scaling")
    if device.capability >= _FP16_FROM:
        return Choice("fp16", f"compute capability {version} has fp16 tensor cores and no bf16")
    return Choice("fp32", f"compute capability {version} has no tensor cores")


def ready_settings(
    settings: TrainConfig, model_folder: Path, device: Callable[[], Device] | None = None
) -> TrainConfig:
    """The settings with nothing left open: "auto" decided, trainable tokens as ids. Ready settings stay as they are.

    Args:
        settings: as the user wrote them.
        model_folder: of the base model, for its tokenizer.
        device: gives what the workers compute on, by default what is here; asked only where it decides.

    Raises:
        ConfigError: a trainable token is not one of the tokenizer's, or there is no GPU.
    """
    if settings.precision == "auto":
        found = device() if device else this_device(settings.use_gpu)
        settings = settings.model_copy(update={"precision": choose_precision(settings, found).value})
    if any(isinstance(token, str) for token in settings.lora.trainable_tokens):
        lora = with_token_ids(settings.lora, load_tokenizer(model_folder))
        settings = settings.model_copy(update={"lora": lora})
    return settings


def precision_of(settings: TrainConfig) -> Precision:
    """The number format of settings that are ready.

    Raises:
        ConfigError: it is not decided yet.
    """
    if settings.precision == "auto":
        raise ConfigError("train.precision: auto is not decided yet", "set train.precision to fp32, bf16 or fp16")
    return settings.precision


def check_variant(settings: TrainConfig) -> None:
    """Check that what is trained goes with the ZeRO stage.

    Raises:
        ConfigError: ZeRO-3 would leave no whole weight for what needs one.
    """
    needs = {
        "train.lora.method=dora": settings.lora.method == "dora",
        "train.lora.trainable_tokens": bool(settings.lora.trainable_tokens),
        f"train.quantization={settings.quantization}": settings.quantization != "none",
    }
    if settings.zero_stage == 3 and (named := [name for name, wanted in needs.items() if wanted]):
        raise ConfigError(
            f"train.zero_stage: 3 shares out the base weights, which {named[0]} needs whole", "set train.zero_stage=2"
        )


def _machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process runs in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text(encoding="utf-8").strip() if _CGROUP_LIMIT.is_file() else "max"
    return physical if limit == "max" else min(physical, int(limit))
