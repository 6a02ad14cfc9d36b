"""Where a step's figures go while a run goes on: metrics.jsonl, TensorBoard, MLflow, Weights & Biases.

In: a row of figures after each step. Out: what each sink makes of it, in a thread of its own, so that no step waits.
A sink that fails does not end the run: its failures are counted, the first is kept to be shown once (a file of each
worker in `sinks/`), and after some in a row it is left alone. A defect in a sink ends them all, and is told for all.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import queue
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from ragray.config_train import MonitorConfig
from ragray.errors import ConfigError
from ragray.train.monitor import StepRecord
from ragray.train.ranks import RankStep
from ragray.train.trackers import METRICS, JsonlSink, MlflowSink, Row, TensorBoardSink, WandbSink

_FOLDER = "sinks"
_MOST_WAITING = 10_000  # rows; more are lost, and counted
_MOST_IN_A_ROW = 5  # failures, after which a sink is left alone
_CLOSING_S = 30.0
_HOSTED_MLFLOW = "databricks"  # the one address of MLflow without a scheme that is no folder
_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_INSTALL = {"tensorboard": "tensorboardX", "mlflow": "mlflow-skinny", "wandb": "wandb"}
_SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class Sink(Protocol):
    """Takes rows. All methods run in one thread, `write` first; what they may raise is listed in `errors`."""

    name: str
    errors: tuple[type[Exception], ...]

    def write(self, row: Row) -> None:
        """Take the figures of one step; the first call opens what has to be opened."""

    def close(self, failed: bool) -> None:
        """Nothing more comes, because training is done or `failed`; also called where `write` never was."""


def step_row(record: StepRecord, rank: RankStep) -> Row:
    """The figures of a step as sinks get them, without those that are not known or no finite number.

    Tokens per second are all workers', `rank_*` this worker's own.
    """
    speed = record.tokens / rank.seconds if rank.seconds > 0 else None
    row = {
        "step": record.step,
        "loss": record.loss,
        "valid_loss": record.valid_loss,
        "learning_rate": record.learning_rate,
        "grad_norm": record.grad_norm,
        "tokens": record.tokens,
        "tokens_per_s": speed,
        "seconds": rank.seconds,
        "rank_tokens_per_s": rank.tokens / rank.seconds if rank.seconds > 0 else None,
        "rank_padded_tokens_per_s": rank.padded_tokens / rank.seconds if rank.seconds > 0 else None,
        "rank_data_wait_s": rank.data_wait_s,
        "rank_memory_mib": rank.memory_mib,
        "rank_mfu": rank.mfu,
        "validation_s": rank.validation_s,
        "checkpoint_s": rank.checkpoint_s,
        "report_s": rank.report_s,
    }
    return {name: value for name, value in row.items() if value is not None and math.isfinite(value)}


def check_sinks(settings: MonitorConfig) -> None:
    """Check that the packages of all configured sinks are there.

    Raises:
        ConfigError: one is not; the message says what to install.
    """
    for name, package in _PACKAGES.items():
        if getattr(settings, name) is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"train.monitor.{name}: the package {package} is not installed",
                f"pip install {_INSTALL[name]}, where the training workers run, or remove train.monitor.{name}",
            )


def absolute_paths(settings: MonitorConfig) -> MonitorConfig:
    """The settings for a worker, whose working directory is another."""
    found: dict[str, str] = {}
    if settings.tensorboard is not None:
        found["tensorboard"] = str(Path(settings.tensorboard).resolve())
    if settings.mlflow is not None and not urlsplit(settings.mlflow).scheme and settings.mlflow != _HOSTED_MLFLOW:
        found["mlflow"] = str(Path(settings.mlflow).resolve())
    return settings.model_copy(update=found)


def open_sinks(settings: MonitorConfig, work_folder: Path, step: int) -> list[Sink]:
    """The sinks of a run that has done `step` steps; its work folder's name is the run's name everywhere.

    Raises:
        ConfigError: a package is not installed on this machine.
    """
    check_sinks(settings)
    name = work_folder.name
    sinks: list[Sink] = []
    if settings.jsonl:
        sinks.append(JsonlSink(work_folder / METRICS, step))
    if settings.tensorboard is not None:
        sinks.append(TensorBoardSink(Path(settings.tensorboard) / name, step))
    if settings.mlflow is not None:
        sinks.append(MlflowSink(settings.mlflow, name))
    if settings.wandb is not None:
        sinks.append(WandbSink(settings.wandb, name, work_folder))
    return sinks


@dataclass
class SinkState:
    """What became of a sink."""

    written: int = 0  # rows
    failures: int = 0
    in_a_row: int = 0
    first_failure: str = ""  # one line, without secrets

    @property
    def left_alone(self) -> bool:
        """Whether nothing more is given to it."""
        return self.in_a_row >= _MOST_IN_A_ROW


class SinkThread:
    """Hands rows to sinks, in the background and in order."""

    def __init__(self, sinks: Sequence[Sink], work_folder: Path, rank: int) -> None:
        self._sinks = sinks
        self._file = work_folder / _FOLDER / f"{rank:05d}.json"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.unlink(missing_ok=True)  # of an earlier attempt
        self.states = {sink.name: SinkState() for sink in sinks}
        self._rows: queue.Queue[Row | None] = queue.Queue(_MOST_WAITING)
        self._lost = 0
        self._training_failed = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="sinks")
        self._thread.start()

    def put(self, row: Row) -> None:
        """Give a row to all sinks, without waiting; where too many wait already, it is lost and counted."""
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self._lost += 1

    def close(self, failed: bool = False) -> None:
        """Write what waits, for half a minute at most, and close the sinks; `failed` is what training did."""
        self._training_failed = failed
        deadline = time.monotonic() + _CLOSING_S
        try:
            self._rows.put(None, timeout=_CLOSING_S if self._thread.is_alive() else 0.0)
        except queue.Full:
            self._lost += 1
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() or self._lost:
            lost = self._rows.qsize() + self._lost
            for state in self.states.values():
                state.failures += 1
                state.first_failure = state.first_failure or f"too slow: {lost} rows were not taken in time"
            self._save()

    def _work(self) -> None:
        try:
            self._take_all()
        except BaseException as error:  # a defect: nothing takes rows any more
            for sink in self._sinks:
                self._failed(sink, error)
            raise

    def _take_all(self) -> None:
        while (row := self._rows.get()) is not None:
            for sink in self._sinks:
                self._write(sink, row)
        for sink in self._sinks:
            try:
                sink.close(self._training_failed)
            except sink.errors as error:
                self._failed(sink, error)
        self._save()

    def _write(self, sink: Sink, row: Row) -> None:
        state = self.states[sink.name]
        if state.left_alone:
            return
        try:
            sink.write(row)
        except sink.errors as error:
            state.in_a_row += 1
            self._failed(sink, error)
        else:
            state.in_a_row = 0
            state.written += 1

    def _failed(self, sink: Sink, error: BaseException) -> None:
        state = self.states[sink.name]
        state.failures += 1
        if not state.first_failure:
            state.first_failure = without_secrets(f"{type(error).__name__}: {error}")
            self._save()

    def _save(self) -> None:
        """Put the states where `sink_failures` finds them; where the disk is full, nowhere."""
        aside = self._file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with contextlib.suppress(OSError):
            aside.write_text(json.dumps({name: asdict(state) for name, state in self.states.items()}), encoding="utf-8")
            aside.replace(self._file)


def without_secrets(text: str) -> str:
    """One line of a message, without passwords in addresses and without the values of variables that hold a secret."""
    for name in _SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    text = re.sub(r"//[^/\s@]*@", "//***@", text)
    return " ".join(text.split())[:300]


def sink_failures(work_folder: Path) -> dict[str, SinkState]:
    """The sinks of the run in this folder that failed at least once, on any worker."""
    failed: dict[str, SinkState] = {}
    for file in sorted((work_folder / _FOLDER).glob("*.json")):
        try:
            states = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:  # the worker has just been started again
            continue
        for name, found in states.items():
            state, before = SinkState(**found), failed.get(name)
            if before is not None:
                before.failures += state.failures
            elif state.failures:
                failed[name] = state
    return failed


def failure_line(name: str, state: SinkState) -> str:
    """What a person is told about a sink that failed for the first time; it may get the next rows all the same."""
    return f"train.monitor.{name} failed, training goes on: {state.first_failure}"
