"""Real runs, watched: what they leave in the work folder, and early stopping."""

import shutil

import pytest

from ragray.artifact import file_digest, folder_digest
from ragray.config_train import MonitorConfig, TrainConfig, ValidationConfig
from ragray.errors import ConfigError
from ragray.train.checkpoint import Checkpoints
from ragray.train.loop import TrainRun, train
from ragray.train.ranks import join_ranks
from ragray.train.sinks import sink_failures
from ragray.train.trackers import read_jsonl

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture
def run(tiny_model, examples_file, tmp_path):
    """A function that trains with changed settings in its own folder; returns the folder and the last checkpoint."""

    def train_with(name, examples=examples_file, sinks=(), **changes):
        settings = TrainConfig(
            base_model=str(tiny_model),
            **{"epochs": 2, "global_batch_examples": 4, "learning_rate": 3e-3, "max_length": 512,
               "tokens_per_micro_batch": 512, "checkpoint_every_steps": 2, "keep_checkpoints": 9, **changes},
        )  # fmt: skip
        work = tmp_path / name
        work.mkdir(exist_ok=True)
        train(TrainRun(settings, 17, str(tiny_model), str(examples), str(work), attempt="x"), sinks=sinks)
        return work, Checkpoints(work, 9).latest()

    return train_with


class BrokenSink:
    name, errors = "broken", (RuntimeError,)

    def write(self, row):
        raise RuntimeError("no connection")

    def close(self, failed):
        pass


def test_a_watched_run_leaves_each_steps_figures(run):
    work, checkpoint = run("watched", keep_best=0, monitor=MonitorConfig(measure_peak=True))
    history, ranks, lines = checkpoint.history(), join_ranks(work), read_jsonl(work / "metrics.jsonl")
    assert [made.step for made in ranks] == [line["step"] for line in lines] == list(range(1, 7))
    assert [made.tokens for made in ranks] == [record.tokens for record in history.records[1:]]
    assert [made.padded_tokens for made in ranks] == [made.tokens for made in ranks], "packing pads nothing"
    assert [line["loss"] for line in lines] == history.losses
    assert [made.seconds for made in ranks] == history.seconds[1:]
    assert all(0 < made.data_wait_s < made.seconds and 0 < made.mfu < 1 for made in ranks)
    assert [made.checkpoint_s > 0 for made in ranks] == [False, True] * 3
    assert [made.validation_s > 0 for made in ranks] == [line.get("valid_loss") is not None for line in lines]


def test_watching_changes_nothing_that_is_trained(run):
    _, plain = run("plain", monitor=MonitorConfig(jsonl=False))
    work, watched = run("watched", sinks=[BrokenSink()])
    assert folder_digest(watched.folder / "adapter") == folder_digest(plain.folder / "adapter")
    assert file_digest(watched.folder / "history.parquet") == file_digest(plain.folder / "history.parquet")
    assert sink_failures(work)["broken"].failures == 5


def test_a_resumed_run_has_each_step_once_in_its_figures(run, tmp_path):
    whole, _ = run("whole")
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for step in (4, 6):
        shutil.rmtree(cut / "checkpoints" / f"step-{step:08d}")
    run("cut")
    assert [made.step for made in join_ranks(cut)] == list(range(1, 7))
    assert [line["loss"] for line in read_jsonl(cut / "metrics.jsonl")] == [
        line["loss"] for line in read_jsonl(whole / "metrics.jsonl")
    ]


def test_validation_comes_every_so_many_steps(run):
    _, checkpoint = run("often", validation=ValidationConfig(every_steps=2))
    assert [r.step for r in checkpoint.history().records if r.valid_loss is not None] == [0, 2, 3, 4, 6]


def test_a_run_without_improvement_stops_and_is_finished(run):
    """No fall of a loss reaches 99: the first validation is the best, and the second after it ends the run."""
    stopping = ValidationConfig(every_steps=1, patience=2, min_improvement=99.0)
    _, checkpoint = run("early", validation=stopping)
    state, history = checkpoint.state(), checkpoint.history()
    assert (state.step, state.finished) == (2, True)
    assert state.counts["steps"] == 2
    assert state.counts["tokens"] == sum(record.tokens for record in history.records)
    _, longer = run("longer", validation=ValidationConfig(every_steps=1))
    assert history.records == longer.history().records[:3], "the learning rate is that of the whole run"
    before = checkpoint.folder.stat().st_mtime_ns
    _, again = run("early", validation=stopping)
    assert again.folder.stat().st_mtime_ns == before, "a stopped run is done"


def test_stopping_early_needs_validation_examples(run, tmp_path, write_rows):
    rows = write_rows(tmp_path / "one.parquet", lambda row: row, at=3, only=True)
    with pytest.raises(ConfigError, match="no validation example"):
        run("none", examples=rows, validation=ValidationConfig(patience=1))
    with pytest.raises(ConfigError, match="best, and there is no validation example"):
        run("none", examples=rows, result="best")
