"""The training loop of one worker; no Ray in it.

In: `TrainRun` (plain values) and an initialised torch.distributed. Out: checkpoints in the work folder,
the last of which is the result. The loop is a function of the run alone: the order of the data, the
seed of each step and the learning rate follow from the step's number, so a run that was killed and
resumed ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed

from ragray.config_train import TrainConfig
from ragray.errors import ConfigError, WorkError
from ragray.schema import stable_digest
from ragray.train.checkpoint import Checkpoint, Checkpoints, RunState
from ragray.train.examples import Example, ExampleSet, read_examples
from ragray.train.flops import StepWork, peak_flops
from ragray.train.loading import DTYPES, check_packable, load_model, load_tokenizer
from ragray.train.lora import attach_lora, set_adapter
from ragray.train.losses import AnswerLoss
from ragray.train.meter import Meter
from ragray.train.monitor import History, Progress, StepRecord, should_stop
from ragray.train.packing import DataOrder, pack, register_packed_attention, share_out
from ragray.train.sinks import Sink, SinkThread, check_sinks, open_sinks, step_row
from ragray.train.zero import ZeroEngine, check_zero

REPORT_SECONDS = 3.0

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class TrainRun:
    """What a worker needs to know: plain values, and paths that every worker can read."""

    settings: TrainConfig
    seed: int
    model_folder: str
    examples_file: str
    work_folder: str
    attempt: str  # differs between starts of the same run


def check_settings(settings: TrainConfig) -> None:
    """Check what the fields' types do not say.

    Raises:
        ConfigError: two settings contradict each other, or the package of a sink is not installed.
    """
    check_zero(settings)
    check_sinks(settings.monitor)


def train(run: TrainRun, on_progress: OnProgress = lambda progress: None, sinks: Sequence[Sink] = ()) -> None:
    """Train to the end, from the latest checkpoint where there is one.

    Args:
        run: the same on every worker.
        on_progress: called on every worker, after the same steps, every few seconds.
        sinks: get this worker's figures after each step, beside those that the settings name on the first worker.

    Raises:
        ConfigError: it should stop early, and there is no validation example.
        DataError: no example to train on.
        WorkError: the loss is not a number; the message names the examples.
    """
    checkpoints = Checkpoints(Path(run.work_folder), run.attempt, run.settings.keep_checkpoints)
    found = _agreed_checkpoint(checkpoints)
    if found is not None and found.state().finished:
        return
    trainer = _Trainer(run, checkpoints, found, on_progress, sinks)
    try:
        trainer.run()
    finally:
        trainer.close()


class _Trainer:
    """One worker's state between steps."""

    def __init__(
        self,
        run: TrainRun,
        checkpoints: Checkpoints,
        found: Checkpoint | None,
        on_progress: OnProgress,
        sinks: Sequence[Sink],
    ) -> None:
        settings = run.settings
        self._run = run
        self._checkpoints = checkpoints
        self._on_progress = on_progress
        self._rank, self._world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        tokenizer = load_tokenizer(Path(run.model_folder))
        examples_file = Path(run.examples_file)
        self._examples = read_examples(examples_file, "train", tokenizer, settings.max_length)
        self._valid = read_examples(examples_file, "valid", tokenizer, settings.max_length)
        _check_early_stopping(settings, self._valid)
        self._order = DataOrder(
            tuple(example.example_id for example in self._examples.examples),
            run.seed,
            settings.global_batch_examples,
            settings.epochs,
            settings.max_steps,
        )
        self._engine = _build_engine(run, found)
        self._history = History() if found is None else found.history()
        self._step = 0 if found is None else found.state().step
        self._reported = (len(self._history.records), time.monotonic())
        self._meter = _build_meter(run, self._engine, self._rank, self._world_size)
        own = open_sinks(settings.monitor, Path(run.work_folder), self._step) if self._rank == 0 else []
        self._sinks = SinkThread([*own, *sinks], Path(run.work_folder), self._rank)

    def run(self) -> None:
        """All remaining steps, with validation, reports and checkpoints at their places."""
        if not self._history.records:
            self._history.add(StepRecord(0, None, self._validate(), 0.0, None, 0), 0.0)
        total = self._order.total_steps
        while self._step < total:
            self._meter.begin()
            record, report_now = self._do_step(self._step)
            self._step += 1
            seconds = self._meter.seconds()
            self._history.add(record, seconds)
            if should_stop(self._history.valid_losses, self._run.settings.validation):
                total = self._step
            if report_now or self._step == total:
                with self._meter.timing("report_s"):
                    self._report(total)
            if self._step % self._run.settings.checkpoint_every_steps == 0 or self._step == total:
                with self._meter.timing("checkpoint_s"):
                    self._save(total)
            self._sinks.put(step_row(record, self._meter.finish(record.step, seconds)))

    def close(self) -> None:
        """Close what was opened for the monitor."""
        self._sinks.close()
        self._meter.close()

    def _do_step(self, step: int) -> tuple[StepRecord, bool]:
        settings = self._run.settings
        with self._meter.timing("data_wait_s"):
            batch = [self._examples.examples[i] for i in self._order.step_examples(step)]
            shares = share_out([len(e) for e in batch], self._world_size, _row_limit(settings, batch))
        answer_tokens = sum(example.answer_tokens for example in batch)
        rows = shares[self._rank]
        sums = torch.zeros(self._world_size, len(rows) + 1, dtype=torch.float64)
        torch.manual_seed(stable_digest("step", self._run.seed, step, self._rank) % 2**63)
        for number, positions in enumerate(rows):
            with self._meter.timing("data_wait_s"):
                row = self._meter.count(pack([batch[i] for i in positions])).to(self._engine.device)
            loss = self._engine.forward(row, last=number == len(rows) - 1)
            self._engine.backward(loss / answer_tokens)
            sums[self._rank, number] = loss.detach()
        sums[0, -1] = float(self._rank == 0 and time.monotonic() - self._reported[1] > REPORT_SECONDS)
        sums = self._sum_over_workers(sums)
        self._check_losses(step, sums[:, :-1], shares, batch)
        rate = learning_rate_of(settings, step, self._order.total_steps)
        norm = self._engine.step(rate)
        if not math.isfinite(norm) and settings.precision != "fp16":  # fp16 skips such a step by itself
            raise _not_a_number(step, "gradient", batch)
        valid_loss = None
        if self._validates_after(step):
            with self._meter.timing("validation_s"):
                valid_loss = self._validate()
        tokens = sum(len(example) for example in batch)
        loss_mean = float(sums[:, :-1].sum()) / answer_tokens
        return StepRecord(step + 1, loss_mean, valid_loss, rate, norm, tokens), bool(sums[0, -1])

    def _validates_after(self, step: int) -> bool:
        every = self._run.settings.validation.every_steps
        at_its_place = every is not None and (step + 1) % every == 0
        return at_its_place or self._order.ends_epoch(step) or step + 1 == self._order.total_steps

    def _validate(self) -> float | None:
        """Mean loss over the answer tokens of the validation split; None where it is empty."""
        examples = self._valid.examples
        if not examples:
            return None
        shares = share_out([len(e) for e in examples], self._world_size, _row_limit(self._run.settings, examples))
        total = torch.zeros(1, dtype=torch.float64)
        for positions in shares[self._rank]:
            total += self._engine.evaluate(pack([examples[i] for i in positions]).to(self._engine.device))
        return float(self._sum_over_workers(total)) / sum(example.answer_tokens for example in examples)

    def _check_losses(
        self, step: int, sums: torch.Tensor, shares: Sequence[Sequence[Sequence[int]]], batch: Sequence[Example]
    ) -> None:
        for worker, number in (~torch.isfinite(sums)).nonzero().tolist():
            raise _not_a_number(step, "loss", [batch[i] for i in shares[worker][number]])

    def _sum_over_workers(self, values: torch.Tensor) -> torch.Tensor:
        values = values.to(self._engine.device)
        torch.distributed.all_reduce(values)
        return values.cpu()

    def _report(self, total: int) -> None:
        since, _ = self._reported
        self._reported = (len(self._history.records), time.monotonic())
        self._on_progress(self._history.progress(total, since))

    def _save(self, total: int) -> None:
        order = replace(self._order, max_steps=total)  # fewer steps than planned where the run stops early
        state = RunState(self._step, total, counts_of(self._examples, self._valid, order, self._engine))
        self._checkpoints.write(
            state,
            self._history,
            self._engine.weights(),
            self._engine.moments(),
            self._run.settings.lora,
            self._run.settings.base_model,
        )


def learning_rate_of(settings: TrainConfig, step: int, total_steps: int) -> float:
    """The learning rate of a step under the run's settings."""
    from ragray.train.schedule import learning_rate

    return learning_rate(
        step,
        total_steps,
        peak=settings.learning_rate,
        schedule=settings.schedule,
        warmup_share=settings.warmup_share,
    )


def counts_of(train_set: ExampleSet, valid_set: ExampleSet, order: DataOrder, engine: ZeroEngine) -> dict[str, int]:
    """What the manifest counts; tokens are those of the whole run, all epochs."""
    seen = [train_set.examples[i] for step in range(order.total_steps) for i in order.step_examples(step)]
    return {
        "examples": len(train_set.examples),
        "valid_examples": len(valid_set.examples),
        "too_long": len(train_set.too_long) + len(valid_set.too_long),
        "shortened": train_set.shortened + valid_set.shortened,
        "steps": order.total_steps,
        "tokens": sum(len(example) for example in seen),
        "answer_tokens": sum(example.answer_tokens for example in seen),
        "trainable_parameters": sum(weight.numel() for weight in engine.weights().values()),
    }


def _build_engine(run: TrainRun, found: Checkpoint | None) -> ZeroEngine:
    settings = run.settings
    model = load_model(Path(run.model_folder), DTYPES[settings.precision], register_packed_attention())
    check_packable(model, settings.max_length)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[no-untyped-call]
    adapted = attach_lora(model, settings.lora, run.seed)
    weights = None if found is None else found.weights()
    if weights is not None:
        set_adapter(adapted, weights)
    adapted.train()
    engine = ZeroEngine(AnswerLoss(adapted, settings.label_smoothing), settings)
    if found is not None and weights is not None:
        engine.restore(weights, found.moments(), found.state().step)
    return engine


def _build_meter(run: TrainRun, engine: ZeroEngine, rank: int, world_size: int) -> Meter:
    work = StepWork.of(engine.module.get_submodule("model"))
    peak = peak_flops(engine.device, run.settings.precision, run.settings.monitor.measure_peak)
    return Meter(Path(run.work_folder), rank, world_size, engine.device, work, peak)


def _check_early_stopping(settings: TrainConfig, valid: ExampleSet) -> None:
    if settings.validation.patience is not None and not valid.examples:
        raise ConfigError(
            "train.validation.patience: there is no validation example to stop by",
            "leave it out, or raise data.split.valid",
        )


def _agreed_checkpoint(checkpoints: Checkpoints) -> Checkpoint | None:
    """The latest checkpoint as the first worker sees it."""
    found = checkpoints.latest()
    step = torch.tensor([-1 if found is None else found.state().step])
    if torch.distributed.get_backend() == "nccl":
        step = step.cuda()
    torch.distributed.broadcast(step, src=0)
    return None if step < 0 else checkpoints.at(int(step))


def _row_limit(settings: TrainConfig, examples: Sequence[Example]) -> int:
    """Most tokens in a row; a longer example has a row to itself."""
    return max(settings.tokens_per_micro_batch, max(len(example) for example in examples))


def _not_a_number(step: int, what: str, examples: Sequence[Example]) -> WorkError:
    ids = ", ".join(example.example_id for example in examples)
    return WorkError(
        f"training: the {what} of step {step + 1} is not a finite number; examples: {ids}",
        "look at these examples, or lower train.learning_rate; training resumes from the last checkpoint",
    )
