"""Sinks get every row in order, resume without doubled steps, and fail without ending the run or showing secrets."""

import importlib.util
import json
import math
from dataclasses import replace

import pytest

from ragray.config_loading import validate_config
from ragray.config_train import MonitorConfig
from ragray.errors import ConfigError
from ragray.train import sinks as module
from ragray.train.monitor import StepRecord
from ragray.train.ranks import RankStep
from ragray.train.sinks import (
    SinkThread,
    absolute_paths,
    check_sinks,
    failure_line,
    open_sinks,
    sink_failures,
    step_row,
    without_secrets,
)
from ragray.train.trackers import JsonlSink, read_jsonl

RANK = RankStep(3, 0, 2, 100.0, 2.0, 0.5, 1.0, 0.25, 0.0, 40, 41, 64.0, None)


class ListSink:
    name, errors = "list", (ValueError,)

    def __init__(self, fails=lambda step: False):
        self.rows, self.closed, self.fails, self.told = [], 0, fails, None

    def write(self, row):
        if self.fails(row["step"]):
            raise ValueError("no http://me:secret@host/x today")
        self.rows.append(row)

    def close(self, failed):
        self.closed += 1
        self.told = failed


def rows(first, last):
    return [{"step": step, "loss": 1.0 / step} for step in range(first, last + 1)]


def feed(thread, made, failed=False):
    for row in made:
        thread.put(row)
    thread.close(failed)


def test_a_row_has_what_is_known_and_speeds_by_hand():
    row = step_row(StepRecord(3, 2.5, None, 0.1, 1.0, 100), RANK)
    assert row["tokens_per_s"] == 50.0
    assert (row["rank_tokens_per_s"], row["rank_padded_tokens_per_s"]) == (20.0, 20.5)
    assert (row["loss"], row["rank_data_wait_s"], row["checkpoint_s"]) == (2.5, 0.5, 0.25)
    assert not {"valid_loss", "rank_mfu"} & set(row)
    overflown = step_row(StepRecord(3, 2.5, math.nan, 0.1, math.inf, 100), RANK)  # of fp16, which leaves the step out
    assert overflown == {name: value for name, value in row.items() if name != "grad_norm"}, "JSON has neither"


def test_every_sink_gets_every_row_in_order(tmp_path):
    first, second = ListSink(), ListSink()
    second.name = "second"
    thread = SinkThread([first, second], tmp_path, 0)
    feed(thread, rows(1, 50))
    assert first.rows == second.rows == rows(1, 50)
    assert (first.closed, second.closed) == (1, 1)
    assert sink_failures(tmp_path) == {}


def test_a_file_that_a_starting_worker_removes_meanwhile_says_nothing(tmp_path):
    (tmp_path / "sinks").mkdir()
    (tmp_path / "sinks" / "00000.json").symlink_to(tmp_path / "gone")
    assert sink_failures(tmp_path) == {}


def test_a_failure_is_counted_and_told_once_without_its_secret(tmp_path):
    bad, good = ListSink(lambda step: step % 2 == 0), ListSink()
    good.name = "good"
    feed(SinkThread([bad, good], tmp_path, 0), rows(1, 20))
    assert [row["step"] for row in bad.rows] == list(range(1, 20, 2)), "it goes on, as no two failures are in a row"
    assert len(good.rows) == 20
    found = sink_failures(tmp_path)
    assert list(found) == ["list"] and (found["list"].failures, found["list"].written) == (10, 10)
    line = failure_line("list", found["list"])
    assert line == "train.monitor.list failed, training goes on: ValueError: no http://***@host/x today"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_in_a_sink_is_told_for_all_of_them(tmp_path):
    """An error that a sink does not list ends the thread; without a word, all sinks would stop unseen."""
    broken, other = ListSink(lambda step: {}[step]), ListSink()
    other.name = "other"
    feed(SinkThread([broken, other], tmp_path, 0), rows(1, 3))
    found = sink_failures(tmp_path)
    assert {name: state.first_failure for name, state in found.items()} == {
        "list": "KeyError: 1", "other": "KeyError: 1",
    }  # fmt: skip


def test_a_state_that_cannot_be_written_stops_no_sink(tmp_path):
    """A folder in the place of the file, as on a full disk: nothing can be told, and every row is taken."""
    bad, good = ListSink(lambda step: True), ListSink()
    good.name = "good"
    thread = SinkThread([bad, good], tmp_path, 0)
    (tmp_path / "sinks" / "00000.json").mkdir()
    feed(thread, rows(1, 9))
    assert len(good.rows) == 9


def test_a_worker_that_starts_again_while_its_file_is_read_has_no_failures_yet(tmp_path, monkeypatch):
    feed(SinkThread([ListSink(lambda step: True)], tmp_path, 0), rows(1, 3))
    (file,) = (tmp_path / "sinks").iterdir()
    read = type(file).read_text
    monkeypatch.setattr(type(file), "read_text", lambda path, **how: (path.unlink(), read(path, **how))[1])
    assert sink_failures(tmp_path) == {}


def test_a_sink_that_always_fails_is_left_alone(tmp_path):
    asked = []
    bad = ListSink(lambda step: asked.append(step) or True)
    feed(SinkThread([bad], tmp_path, 0), rows(1, 50))
    assert asked == [1, 2, 3, 4, 5]
    assert sink_failures(tmp_path)["list"].failures == 5


def test_failures_of_all_workers_add_up_and_an_earlier_attempts_are_forgotten(tmp_path):
    for rank in (0, 1):
        feed(SinkThread([ListSink(lambda step: step == 1)], tmp_path, rank), rows(1, 3))
    assert sink_failures(tmp_path)["list"].failures == 2
    again = SinkThread([ListSink()], tmp_path, 0)
    assert sink_failures(tmp_path)["list"].failures == 1, "from its start on"
    again.close()


def test_a_sink_that_is_too_slow_costs_rows_not_time(tmp_path, monkeypatch):
    import threading

    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    monkeypatch.setattr(module, "_CLOSING_S", 0.05)
    gate = threading.Event()
    slow = ListSink(lambda step: not gate.wait())
    feed(SinkThread([slow], tmp_path, 0), rows(1, 9))
    gate.set()
    assert "too slow" in sink_failures(tmp_path)["list"].first_failure


@pytest.mark.parametrize("failed", [False, True])
def test_sinks_are_told_whether_training_failed(tmp_path, failed):
    sink = ListSink()
    thread = SinkThread([sink], tmp_path, 0)
    thread.close(failed)
    assert sink.told is failed


def test_secrets_of_the_environment_are_masked(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert without_secrets(f"denied\n for {'k' * 40} at https://u:p@h/") == "denied for *** at https://***@h/"


def test_jsonl_of_a_resumed_run_has_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    feed(SinkThread([JsonlSink(path, 0)], tmp_path, 0), rows(1, 5))
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    feed(SinkThread([JsonlSink(path, 3)], tmp_path, 0), rows(4, 7))
    assert read_jsonl(path) == rows(1, 7)


def test_settings_choose_the_sinks(tmp_path):
    names = [sink.name for sink in open_sinks(MonitorConfig(tensorboard=str(tmp_path)), tmp_path, 0)]
    assert names == ["jsonl", "tensorboard"]
    assert open_sinks(MonitorConfig(jsonl=False), tmp_path, 0) == []


def test_a_relative_folder_is_the_users_not_the_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_paths(MonitorConfig(tensorboard="runs")).tensorboard == str(tmp_path / "runs")
    assert absolute_paths(MonitorConfig(mlflow="runs")).mlflow == str(tmp_path / "runs")
    for server in ("databricks", "https://host", "sqlite:///runs.db"):
        assert absolute_paths(MonitorConfig(mlflow=server)).mlflow == server
    assert absolute_paths(MonitorConfig()) == MonitorConfig()


@pytest.mark.parametrize(("name", "install"), [("mlflow", "mlflow-skinny"), ("wandb", "wandb"), ("tensorboard", "ten")])
def test_a_missing_package_is_named_before_any_work(monkeypatch, name, install):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf"train\.monitor\.{name}: the package (.|\n)*pip install {install}"):
        check_sinks(MonitorConfig(**{name: "x"}))
    check_sinks(MonitorConfig())


def test_a_password_in_the_address_is_refused_and_not_shown():
    tree = {"name": "t", "output": "o", "data": {"faq": [{"path": "x"}]}}
    train = {"base_model": "m", "monitor": {"mlflow": "https://me:pw123@host"}}
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_USERNAME") as caught:
        validate_config({**tree, "train": train}, "test")
    assert "pw123" not in str(caught.value)


def test_tensorboard_gets_every_figure(tmp_path):
    events = pytest.importorskip("tensorboardX.event_file_writer")
    assert events is not None
    (sink,) = open_sinks(MonitorConfig(jsonl=False, tensorboard=str(tmp_path / "board")), tmp_path / "train-1", 0)
    sink.write(step_row(StepRecord(1, 2.5, 2.0, 0.1, 1.0, 100), replace(RANK, step=1)))
    sink.close(failed=False)
    (file,) = (tmp_path / "board" / "train-1").iterdir()
    content = file.read_bytes()
    assert all(name in content for name in (b"loss", b"valid_loss", b"tokens_per_s", b"rank/memory_mib"))


def test_tensorboard_hides_the_steps_that_a_resumed_run_does_again(tmp_path):
    records = pytest.importorskip("tensorboardX.proto.event_pb2")
    (sink,) = open_sinks(MonitorConfig(jsonl=False, tensorboard=str(tmp_path)), tmp_path / "train-1", 3)
    sink.write({"step": 4, "loss": 1.0})
    sink.close(failed=False)
    (file,) = (tmp_path / "train-1").iterdir()
    content, at, events = file.read_bytes(), 0, []
    while at < len(content):  # a record: its length, a checksum of 4 bytes, itself, a checksum of 4 bytes
        length = int.from_bytes(content[at : at + 8], "little")
        events.append(records.Event.FromString(content[at + 12 : at + 12 + length]))
        at += 16 + length
    restarts = [event.step for event in events if event.session_log.status == records.SessionLog.START]
    assert restarts == [4], "TensorBoard hides what was written for this step and later ones before"


def test_mlflow_goes_on_with_the_run_of_that_name(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder in place of a server
    uri = (tmp_path / "mlruns").as_uri()
    for first, last in ((1, 2), (2, 3)):
        made = open_sinks(MonitorConfig(jsonl=False, mlflow=uri), tmp_path / "train-1", 0)
        feed(SinkThread(made, tmp_path, 0), rows(first, last), failed=first == 2)
        assert sink_failures(tmp_path) == {}
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("ragray").experiment_id])
    assert sorted({metric.step for metric in client.get_metric_history(run.info.run_id, "loss")}) == [1, 2, 3]
    assert run.info.status == "FAILED"


def test_wandb_offline_takes_the_rows(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "train-1").mkdir()
    made = open_sinks(MonitorConfig(jsonl=False, wandb="me/project"), tmp_path / "train-1", 0)
    feed(SinkThread(made, tmp_path, 0), rows(1, 3))
    assert sink_failures(tmp_path) == {}
    assert list((tmp_path / "train-1" / "wandb").glob("offline-run-*/*.wandb"))


def test_states_are_plain_json(tmp_path):
    feed(SinkThread([ListSink()], tmp_path, 0), rows(1, 2))
    (file,) = (tmp_path / "sinks").iterdir()
    assert json.loads(file.read_text())["list"]["written"] == 2
