"""History files with stable bytes, the progress line, early stopping."""

import pytest

from ragray.artifact import file_digest
from ragray.config_train import ValidationConfig
from ragray.train.monitor import (
    History,
    Progress,
    StepRecord,
    draw_losses,
    read_progress,
    should_stop,
    write_progress,
)


def history():
    records = [
        StepRecord(0, None, 3.0, 0.0, None, 0),
        StepRecord(1, 2.5, None, 0.1, 1.0, 100),
        StepRecord(2, 2.0, 2.25, 0.2, 0.5, 300),
    ]
    return History(records, [0.0, 1.0, 3.0])


def test_saved_and_loaded_is_the_same(tmp_path):
    history().save(tmp_path)
    assert History.load(tmp_path) == history()


def test_losses_and_speed():
    assert history().losses == [2.5, 2.0]
    assert history().valid_losses == [3.0, 2.25]
    assert history().tokens_per_s() == 400 / 4.0
    assert history().progress(10, since=2) == Progress(2, 10, 2.0, 0.2, 100.0, 24.0)
    line = "step 2/10  loss 2.0000  lr 2.00e-01  100 tokens/s  0:00:24 left"
    assert history().progress(10, since=2).line() == line


def test_progress_after_a_step_that_was_left_out_shows_the_loss_before_it():
    made = history()
    made.add(StepRecord(3, None, None, 0.3, None, 100), 1.0)
    assert made.progress(10, since=2) == Progress(3, 10, 2.0, 0.3, 100.0, 14.0)


@pytest.mark.parametrize(
    ("losses", "patience", "least", "stops"),
    [
        ([3.0, 2.0, 2.1, 2.2], 2, 0.0, True),
        ([3.0, 2.0, 2.1, 2.2], 3, 0.0, False),
        ([3.0, 2.0, 2.1, 1.9, 2.0], 2, 0.0, False),  # an improvement starts the count anew
        ([3.0, 2.0, 1.95, 1.9], 2, 0.2, True),  # each fall is too small, also both together
        ([3.0, 2.0, 1.9, 1.7], 2, 0.2, False),
        ([3.0, float("nan"), float("nan")], 2, 0.0, True),
        ([3.0, 4.0, 5.0], None, 0.0, False),
        ([], 1, 0.0, False),
    ],
)
def test_patience_counts_validations_without_improvement(losses, patience, least, stops):
    assert should_stop(losses, ValidationConfig(patience=patience, min_improvement=least)) is stops


def test_times_do_not_change_the_history_or_the_chart(tmp_path):
    for name, seconds in (("a", [0.0, 1.0, 3.0]), ("b", [0.0, 2.0, 9.0])):
        (tmp_path / name).mkdir()
        slower = History(history().records, seconds)
        slower.save(tmp_path / name)
        draw_losses(slower, tmp_path / name / "loss.svg")
    for file in ("history.parquet", "loss.svg"):
        assert file_digest(tmp_path / "a" / file) == file_digest(tmp_path / "b" / file)


def test_progress_is_read_whole_or_not_at_all(tmp_path):
    assert read_progress(tmp_path) is None
    progress = Progress(3, 9, 1.5, 1e-4, 1234.0, 60.0)
    write_progress(progress, tmp_path)
    assert read_progress(tmp_path) == progress
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]
