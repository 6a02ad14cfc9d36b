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
from ragray.train.attention import kernel_of
from ragray.train.flops import StepWork, peak_flops
from ragray.train.hardware import precision_of
from ragray.train.loading import DTYPES, check_packable, load_model
from ragray.train.lora import attach_lora
from ragray.train.meter import Meter
from ragray.train.packing import DataOrder, register_packed_attention
from ragray.train.stored_examples import StoredExamples, open_store
from ragray.train.together import alike, first_workers
from ragray.train.token_store import TokenSource, make_store
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


def open_examples(source: TokenSource, work_folder: Path) -> tuple[StoredExamples, StoredExamples]:
    """The training and the validation examples; the first worker makes the store where it is not whole. A collective.

    Raises:
        RagrayError: some worker's error: no example to train on, a tokenizer without a template, a full disk.
    """
    folder = Path()
    with alike():
        if torch.distributed.get_rank() == 0:
            folder = make_store(source, work_folder)
    folder = Path(first_workers(str(folder)))
    with alike():
        train, valid = open_store(folder, source)
    return train, valid


def check_validation(settings: TrainConfig, valid: StoredExamples) -> None:
    """Check that there is what an early stop and the best result follow, and what validation validates on.

    Raises:
        ConfigError: there is no validation example.
    """
    if len(valid):
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
    if settings.result == "best":
        raise ConfigError(
            "train.result: best, and there is no validation example to tell it by",
            "set train.result=last, or raise data.split.valid",
        )


def build_model(folder: Path, settings: TrainConfig, seed: int) -> nn.Module:
    """The base model with its adapter, to be trained; `settings` are ready."""
    dtype = DTYPES[precision_of(settings)]
    model = load_model(folder, dtype, register_packed_attention(kernel_of(settings)), settings.quantization)
    check_packable(model, settings.max_length)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[no-untyped-call]
    adapted = attach_lora(model, settings.lora, seed)
    return adapted.train()


def build_meter(work_folder: Path, engine: ZeroEngine, settings: TrainConfig) -> Meter:
    """What measures this worker's steps."""
    work = StepWork.of(engine.module.get_submodule("model"), reference=settings.loss.kind == "dpo")
    peak = peak_flops(engine.device, precision_of(settings), settings.monitor.measure_peak)
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return Meter(work_folder, rank, world_size, engine.device, work, peak)


def counts_of(
    train_set: StoredExamples, valid_set: StoredExamples, order: DataOrder, engine: ZeroEngine
) -> dict[str, int]:
    """What the manifest counts; tokens are those of the whole run, all epochs."""
    return {
        "examples": len(train_set),
        "valid_examples": len(valid_set),
        "too_long": train_set.too_long + valid_set.too_long,
        "shortened": train_set.shortened + valid_set.shortened,
        "without_wrong": train_set.without_wrong,
        "steps": order.total_steps,
        "tokens": order.sum_over_run(train_set.lengths),
        "answer_tokens": order.sum_over_run(train_set.answer_tokens),
        "trainable_parameters": sum(math.prod(shape) for shape in engine.shapes().values()),
    }
