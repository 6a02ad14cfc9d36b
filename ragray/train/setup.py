"""What a worker makes and checks before its first step.

In: the settings, and paths that every worker can read. Out: the model with its adapter, the meter, and counts.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.distributed
from torch import nn

from ragray.config_train import TrainConfig
from ragray.errors import ConfigError, WorkError
from ragray.train.examples import ExampleSet
from ragray.train.flops import StepWork, peak_flops
from ragray.train.hardware import precision_of
from ragray.train.loading import DTYPES, check_packable, load_model
from ragray.train.lora import attach_lora
from ragray.train.meter import Meter
from ragray.train.packing import DataOrder, register_packed_attention
from ragray.train.zero import ZeroEngine


def check_files(*paths: str) -> None:
    """Check that this worker sees the run's files, wherever in the cluster it is.

    Raises:
        WorkError: it does not.
    """
    for path in paths:
        if not Path(path).exists():
            raise WorkError(
                f"{path}: not found on the node of a training worker",
                "put `output` and train.base_model on storage that all nodes share",
            )


def check_early_stopping(settings: TrainConfig, valid: ExampleSet) -> None:
    """Check that there is what an early stop follows, and what asynchronous validation validates on.

    Raises:
        ConfigError: there is no validation example.
    """
    if valid.examples:
        return
    if settings.validation.patience is not None:
        raise ConfigError(
            "train.validation.patience: there is no validation example to stop by",
            "leave it out, or raise data.split.valid",
        )
    if settings.validation.asynchronous:
        raise ConfigError(
            "train.validation.asynchronous: there is no validation example", "leave it out, or raise data.split.valid"
        )


def build_model(folder: Path, settings: TrainConfig, seed: int) -> nn.Module:
    """The base model with its adapter, to be trained; `settings` are ready."""
    dtype = DTYPES[precision_of(settings)]
    model = load_model(folder, dtype, register_packed_attention(), settings.quantization)
    check_packable(model, settings.max_length)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[no-untyped-call]
    adapted = attach_lora(model, settings.lora, seed)
    return adapted.train()


def build_meter(work_folder: Path, engine: ZeroEngine, settings: TrainConfig) -> Meter:
    """What measures this worker's steps."""
    work = StepWork.of(engine.module.get_submodule("model"))
    peak = peak_flops(engine.device, precision_of(settings), settings.monitor.measure_peak)
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return Meter(work_folder, rank, world_size, engine.device, work, peak)


def counts_of(train_set: ExampleSet, valid_set: ExampleSet, order: DataOrder, engine: ZeroEngine) -> dict[str, int]:
    """What the manifest counts; tokens are those of the whole run, all epochs."""
    return {
        "examples": len(train_set.examples),
        "valid_examples": len(valid_set.examples),
        "too_long": len(train_set.too_long) + len(valid_set.too_long),
        "shortened": train_set.shortened + valid_set.shortened,
        "without_wrong": len(train_set.without_wrong),
        "steps": order.total_steps,
        "tokens": order.sum_over_run(train_set.lengths),
        "answer_tokens": order.sum_over_run([example.answer_tokens for example in train_set.examples]),
        "trainable_parameters": sum(math.prod(shape) for shape in engine.shapes().values()),
    }
