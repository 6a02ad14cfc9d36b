"""The training loop of one worker; no Ray in it.

In: `TrainRun` (plain values) and an initialised torch.distributed. Out: checkpoints in the work folder,
the last of which is the result. The loop is a function of the run alone: the order of the data, the
seed of each step and the learning rate follow from the step's number, so a run that was killed and
resumed ends with the same bytes as one that was not.
"""

from __future__ import annotations

import functools
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed

from ragray.config_train import TrainConfig
from ragray.errors import ConfigError
from ragray.schema import stable_digest
from ragray.train.checkpoint import Checkpoint, Checkpoints, RunState
from ragray.train.guard import BadStep, judge, why_bad
from ragray.train.hardware import check_variant, ready_settings
from ragray.train.losses import AnswerLoss, loss_units, wrong_answers
from ragray.train.monitor import History, Progress, StepRecord, should_stop
from ragray.train.packing import DataOrder, pack, share_out
from ragray.train.schedule import learning_rate_of
from ragray.train.setup import build_meter, build_model, check_files, check_validation, counts_of, open_examples
from ragray.train.sinks import Sink, SinkThread, check_sinks, open_sinks, step_row
from ragray.train.stored_examples import StoredExamples
from ragray.train.together import Kept, alike, first_workers
from ragray.train.token_store import TokenSource
from ragray.train.validations import Validations
from ragray.train.writing import CheckpointWriter
from ragray.train.zero import ZeroEngine
from ragray.train.zero_config import check_zero

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
    attempt: str  # differs between starts of the same command


def token_source(run: TrainRun) -> TokenSource:
    """What the run's tokens are made from."""
    settings, wrong = run.settings, wrong_answers(run.settings.loss)
    return TokenSource(Path(run.examples_file), Path(run.model_folder), settings.max_length, wrong)


def check_settings(settings: TrainConfig) -> None:
    """Check what the fields' types do not say.

    Raises:
        ConfigError: two settings contradict each other, or the package of a sink is not installed.
    """
    check_zero(settings)
    check_variant(settings)
    check_sinks(settings.monitor)
    if settings.least_workers > settings.most_workers:
        raise ConfigError(
            f"train.num_workers: {[settings.least_workers, settings.most_workers]} is [most, least]",
            "write [least, most]",
        )
    if settings.result == "best" and settings.keep_best == 0:
        raise ConfigError("train.result: best needs a best checkpoint", "set train.keep_best to 1")


def train(
    run: TrainRun,
    on_progress: OnProgress = lambda progress: None,
    notice: Callable[[], bool] = lambda: False,
    sinks: Sequence[Sink] = (),
) -> None:
    """Train to the end, from the latest checkpoint where there is one.

    Args:
        run: the same on every worker.
        on_progress: called on the first worker, every few seconds and after the last step.
        notice: whether this worker's machine is about to be taken away: a checkpoint is then written at once.
        sinks: get this worker's figures after each step, beside those that the settings name on the first worker.

    Raises:
        RagrayError: the same on every worker; trying again would end the same way.
        ConfigError: it should stop early or give the best adapter, and there is no validation example.
        DataError: no example to train on.
        WorkError: a loss is not a number, or spikes; the message names the examples. Or a checkpoint could not
            be written.
    """
    with alike():
        run = replace(run, settings=ready_settings(run.settings, Path(run.model_folder)))
    checkpoints = Checkpoints(Path(run.work_folder), run.settings.keep_checkpoints, run.settings.keep_best)
    found, attempt = _begin(checkpoints, run.attempt)
    if found is not None and found.state().finished:
        return
    writer = CheckpointWriter(checkpoints, attempt, run.settings)
    try:
        _Trainer(run, checkpoints, writer, found, on_progress, notice, sinks).run()
    finally:
        writer.close()


class _Trainer:
    """One worker's state between steps."""

    def __init__(
        self,
        run: TrainRun,
        checkpoints: Checkpoints,
        writer: CheckpointWriter,
        found: Checkpoint | None,
        on_progress: OnProgress,
        notice: Callable[[], bool],
        sinks: Sequence[Sink],
    ) -> None:
        settings = run.settings
        self._run = run
        self._checkpoints, self._writer = checkpoints, writer
        self._on_progress, self._notice = on_progress, notice
        self._rank, self._world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        with alike():
            check_files(run.model_folder, run.examples_file, run.work_folder)
        self._examples, self._valid = open_examples(token_source(run), Path(run.work_folder))
        with alike():
            check_validation(settings, self._valid)
            model = build_model(Path(run.model_folder), settings, run.seed)
        self._order = DataOrder(
            self._examples.ids, run.seed, settings.global_batch_examples, settings.epochs, settings.max_steps
        )
        self._engine = ZeroEngine(AnswerLoss(model, settings.loss, whole_weights=settings.zero_stage < 3), settings)
        self._counts = functools.cache(  # by the last step: an early stop ends the run before its planned one
            lambda total: counts_of(self._examples, self._valid, replace(self._order, max_steps=total), self._engine)
        )
        self._history, self._step, self._bad_steps = History(), 0, list[BadStep]()
        self._validations = Validations(Path(run.work_folder)) if settings.validation.asynchronous else None
        self._stopping = False  # whether asynchronous validation asked for the end
        if found is not None:
            self._restore(found)
            with alike():
                self._history, self._step = found.history(), found.state().step
            self._bad_steps = list(found.state().bad_steps)
        self._reported = (len(self._history.records), time.monotonic())
        with alike():
            self._meter = build_meter(Path(run.work_folder), self._engine, settings)
            own = open_sinks(settings.monitor, Path(run.work_folder), self._step) if self._rank == 0 else []
        self._sinks, self._kept = SinkThread([*own, *sinks], Path(run.work_folder), self._rank), Kept()
        self._heeded = False  # whether the notice of this worker's end was answered by a checkpoint

    def run(self) -> None:
        """All remaining steps, with validation, reports and checkpoints at their places."""
        failed = True
        try:
            self._run_all()
            self._kept.tell()
            self._writer.finish()
            failed = False
        finally:
            self._sinks.close(failed)
            self._meter.close()

    def _run_all(self) -> None:
        if not self._history.records:
            valid_loss = self._validate() if self._validations is None else None
            self._history.add(StepRecord(0, None, valid_loss, 0.0, None, 0), 0.0)
            with alike():
                if self._validations is not None and self._rank == 0:
                    self._validations.set_aside(0, None)
        total = self._order.total_steps
        while self._step < total:
            self._meter.begin()
            record, leaving = self._do_step(self._step)
            self._step += 1
            seconds = self._meter.seconds()
            self._history.add(record, seconds)
            if self._stopping or should_stop(self._history.valid_losses, self._run.settings.validation):
                total = self._step
            with self._kept.keeping(), self._meter.timing("report_s"):
                self._report(total)
            if leaving or self._must_save(total):
                with self._meter.timing("checkpoint_s"):
                    self._save(total)
            if leaving:
                self._heeded = True
                self._writer.finish()
            with self._kept.keeping():
                self._sinks.put(step_row(record, self._meter.finish(record.step, seconds)))

    def _do_step(self, step: int) -> tuple[StepRecord, bool]:
        """One step; its record, and whether a worker is about to be taken away."""
        settings = self._run.settings
        with self._meter.timing("data_wait_s"):
            batch = self._order.step_examples(step)
            shares = self._shares(self._examples, batch)
        units = loss_units(self._examples.answer_tokens[batch].tolist(), settings.loss)
        rows = shares[self._rank]
        sums = torch.zeros(self._world_size, len(rows) + 3, dtype=torch.float64)
        torch.manual_seed(stable_digest("step", self._run.seed, step, self._rank) % 2**63)
        for number, chosen in enumerate(rows):
            with self._meter.timing("data_wait_s"):
                row = self._meter.count(pack([self._examples[i] for i in chosen])).to(self._engine.device)
            loss = self._engine.forward(row, last=number == len(rows) - 1)
            self._engine.backward(loss / units)
            sums[self._rank, number] = loss.detach()
        sums[self._rank, -3] = float(self._writer.failed() or self._kept.pending())
        sums[self._rank, -2] = float(self._stop_asked())
        sums[self._rank, -1] = float(not self._heeded and self._notice())
        sums = self._sum_over_workers(sums)
        if sums[:, -3].any():  # one of these raises
            self._kept.tell()
            self._writer.finish()
        self._stopping = bool(sums[:, -2].any())
        losses = sums[:, :-3]
        loss_mean: float | None = float(losses.sum()) / units
        rate = learning_rate_of(settings, step, self._order.total_steps)
        norm = self._update(step, losses, units, rate, shares)
        if norm is None:
            loss_mean = None
        valid_loss = None
        if self._validations is None and self._validates_after(step):
            with self._meter.timing("validation_s"):
                valid_loss = self._validate()
        tokens = int(self._examples.lengths[batch].sum())
        return StepRecord(step + 1, loss_mean, valid_loss, rate, norm, tokens), bool(sums[:, -1].any())

    def _update(
        self,
        step: int,
        losses: torch.Tensor,
        units: int,
        rate: float,
        shares: Sequence[Sequence[Sequence[int]]],
    ) -> float | None:
        """Make the optimizer step unless it must not be made; the gradient's norm, None where it was not."""
        settings = self._run.settings
        reason = why_bad(settings, float(losses.sum()) / units, self._history.losses)
        suspects = [shares[worker][number] for worker, number in (~torch.isfinite(losses)).nonzero().tolist()]
        if reason is None:
            norm = self._engine.step(rate)
            if math.isfinite(norm) or self._engine.lowered_scale:  # fp16 goes on with a lower loss scale
                return norm
            reason = "the gradient is not a finite number"
        else:
            self._engine.discard()
        named = suspects[0] if suspects else [number for worker in shares for row in worker for number in row]
        self._leave_out(judge(settings, step + 1, reason, [self._examples[i] for i in named], self._bad_steps))
        return None

    def _leave_out(self, bad: BadStep) -> None:
        """Note a bad step, and go back to the last checkpoint where that is the policy."""
        if bad.policy == "roll_back":
            self._writer.finish()
            found, _ = _begin(self._checkpoints, "")
            if found is not None:  # before the first checkpoint there is nothing to go back to
                self._restore(found)
                bad = replace(bad, left_out_from=found.state().step + 1)
                for number, record in enumerate(self._history.records):
                    if record.step >= bad.left_out_from:
                        self._history.records[number] = replace(record, loss=None, valid_loss=None, grad_norm=None)
        self._bad_steps.append(bad)

    def _validates_after(self, step: int) -> bool:
        every = self._run.settings.validation.every_steps
        at_its_place = every is not None and (step + 1) % every == 0
        return at_its_place or self._order.ends_epoch(step) or step + 1 == self._order.total_steps

    def _stop_asked(self) -> bool:
        return self._rank == 0 and self._validations is not None and self._validations.stop_requested()

    def _validate(self) -> float | None:
        """Mean loss over the answer tokens of the validation split; None where it is empty."""
        if not len(self._valid):
            return None
        total = torch.zeros(1, dtype=torch.float64)
        for chosen in self._shares(self._valid, range(len(self._valid)))[self._rank]:
            total += self._engine.evaluate(pack([self._valid[i] for i in chosen]).to(self._engine.device))
        return float(self._sum_over_workers(total)) / int(self._valid.answer_tokens.sum())

    def _shares(self, examples: StoredExamples, chosen: Sequence[int]) -> list[list[list[int]]]:
        """The chosen examples as `[worker][micro-batch]`; one longer than a row has a row to itself."""
        lengths = examples.lengths[chosen].tolist()
        limit = max(self._run.settings.tokens_per_micro_batch, *lengths)
        return [[[chosen[i] for i in row] for row in rows] for rows in share_out(lengths, self._world_size, limit)]

    def _sum_over_workers(self, values: torch.Tensor) -> torch.Tensor:
        values = values.to(self._engine.device)
        torch.distributed.all_reduce(values)
        return values.cpu()

    def _restore(self, found: Checkpoint) -> None:
        with alike():
            weights, moments = found.weights(), found.moments()
            state = found.state()
        self._engine.restore(weights, moments, state.updates, state.loss_scale)

    def _report(self, total: int) -> None:
        since, when = self._reported
        due = self._step == total or time.monotonic() - when > REPORT_SECONDS
        if due and self._rank == 0 and self._history.last_loss is not None:
            self._reported = (len(self._history.records), time.monotonic())
            self._on_progress(self._history.progress(total, since))

    def _must_save(self, total: int) -> bool:
        if self._step == total or self._step % self._run.settings.checkpoint_every_steps == 0:
            return True
        if self._validations is not None:
            return self._validates_after(self._step - 1)
        if self._run.settings.keep_best == 0 or self._history.records[-1].valid_loss is None:
            return False
        before = filter(math.isfinite, self._history.valid_losses[1:-1])
        return self._history.records[-1].valid_loss < min(before, default=math.inf)

    def _save(self, total: int) -> None:
        state = RunState(
            self._step,
            total,
            self._counts(total),
            updates=self._engine.updates,
            valid_loss=self._history.records[-1].valid_loss,
            bad_steps=tuple(self._bad_steps),
            loss_scale=self._engine.loss_scale,
        )
        validated = self._step == total or self._validates_after(self._step - 1)
        self._writer.save(state, self._history, self._engine.shard(), self._validations if validated else None)


def _begin(checkpoints: Checkpoints, attempt: str) -> tuple[Checkpoint | None, str]:
    """The latest checkpoint as the first worker sees it, and a name that no group of workers had before."""
    step = -1
    with alike():
        if torch.distributed.get_rank() == 0:
            if attempt:
                checkpoints.clear_dead()
            found = checkpoints.latest()
            step = -1 if found is None else found.state().step
    step, token = first_workers((step, uuid.uuid4().hex[:8]))
    return (None if step < 0 else checkpoints.at(step)), f"{attempt}-{token}"
