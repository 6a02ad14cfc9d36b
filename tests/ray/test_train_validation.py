"""Checkpoints validated beside real Ray Train runs: killed tasks, killed drivers, clusters without room."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
from validated_run import make_inputs, make_job

from ragray.artifact import folder_digest
from ragray.distributed import train
from ragray.errors import ConfigError, WorkError
from ragray.train.monitor import History
from ragray.train.validations import Validations, load_validations

pytestmark = pytest.mark.usefixtures("ray_local")

PLACES = [0, 2, 4, 6, 8]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def own(ray_local, inputs, tmp_path_factory):
    """The same run validated by its workers."""
    job = make_job(inputs, tmp_path_factory.mktemp("own"), validation={"every_steps": 2}, result="best")
    train.build(job)
    return job


def kill_validation(killed: list[int], done: threading.Event) -> None:
    """kill -9 the first process that validates for this test's own Ray, while it loads or computes."""
    while not done.wait(0.02):
        for process in psutil.Process().children(recursive=True):
            try:
                found = "ray::validate_adapter" in " ".join(process.cmdline())
            except psutil.Error:
                continue
            if found:
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                return


def test_a_killed_validation_is_made_again_and_all_are_those_of_the_workers(own, inputs, tmp_path):
    lines, killed, done = [], [], threading.Event()
    job = make_job(inputs, tmp_path, lines, result="best")
    killer = threading.Thread(target=kill_validation, args=(killed, done), daemon=True)
    killer.start()
    train.build(job)
    done.set()
    killer.join()
    assert len(killed) == 1
    results, answers = load_validations(job.draft.folder)
    history, expected = History.load(job.draft.folder), History.load(own.draft.folder)
    assert [result.step for result in results] == PLACES
    assert [r.step for r in history.records if r.valid_loss is not None] == PLACES
    assert history.valid_losses == pytest.approx(expected.valid_losses, abs=1e-6)
    assert history.losses == expected.losses
    assert job.draft.counts["not_validated"] == 0
    assert job.draft.counts["result_step"] == own.draft.counts["result_step"]
    assert folder_digest(job.draft.folder / "adapter") == folder_digest(own.draft.folder / "adapter")
    assert [result.questions for result in results] == [3] * 5
    assert [answer.step for answer in answers] == [step for step in PLACES for _ in range(3)]
    assert len({answer.example_id for answer in answers}) == 3, "the same questions each time"
    assert any(line.startswith("validation after step 8: loss ") for line in lines)
    assert not [line for line in lines if "failed" in line], "Ray itself tries a lost task again"


@pytest.mark.slow
def test_what_was_validated_before_the_driver_was_killed_is_not_validated_again(own, inputs, tmp_path):
    script = Path(__file__).with_name("validated_run.py")
    log = (tmp_path / "log").open("w")
    folder = tmp_path / "run"
    driver = subprocess.Popen([sys.executable, str(script), str(inputs), str(folder)], stdout=log, stderr=log)
    kept = Validations(folder / "work")
    while not (before := kept.results()):
        assert driver.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    before = kept.results()
    assert len(before) < len(PLACES), "the driver had finished"
    job = make_job(inputs, folder)
    train.build(job)
    after, _ = load_validations(job.draft.folder)
    done = {result.step for result in before}  # which one is first depends on the load
    assert [result for result in after if result.step in done] == before, "the very results, with their seconds"
    assert [result.step for result in after] == PLACES
    assert [result.loss for result in after] == pytest.approx(History.load(own.draft.folder).valid_losses, abs=1e-6)


def test_without_room_all_is_validated_after_training(inputs, tmp_path):
    threads = int(ray.cluster_resources()["CPU"])
    lines = []
    job = make_job(inputs, tmp_path, lines, threads_per_worker=threads, epochs=1)
    train.build(job)
    first = next(number for number, line in enumerate(lines) if line.startswith("validation"))
    assert lines[first - 1].startswith("step 2/2"), "nothing before the workers were done"
    assert [result.step for result in load_validations(job.draft.folder)[0]] == [0, 2]


@pytest.mark.slow
def test_no_improvement_stops_the_workers(inputs, tmp_path):
    """A rate of nearly nothing improves nothing; how soon the workers hear of it depends on timing."""
    lines = []
    patient = {"asynchronous": True, "every_steps": 20, "patience": 1, "min_improvement": 0.5}
    job = make_job(inputs, tmp_path, lines, validation=patient, learning_rate=1e-9, epochs=9999, keep_checkpoints=1)
    train.build(job)
    assert any("stopping early" in line for line in lines)
    steps = History.load(job.draft.folder).records[-1].step
    results = load_validations(job.draft.folder)[0]
    assert 20 <= steps < 9999 * 2 and results[-1].step == steps == job.draft.counts["steps"]
    assert {result.step for result in results} >= set(range(0, steps + 1, 20))


def test_what_cannot_be_validated_is_told_counted_and_missed_where_it_decides(own, inputs, tmp_path):
    """The run is finished but for its validations, and an adapter is damaged."""
    changes = {"validation": {"asynchronous": True, "every_steps": 2}, "epochs": 1}
    job = make_job(inputs, tmp_path / "whole", **changes)
    train.build(job)
    kept = Validations(job.work_folder)
    for candidate in kept.all():
        (candidate.folder / "result.json").unlink()
    (kept.all()[1].folder / "adapter" / "adapter_model.safetensors").unlink()
    lines = []
    again = make_job(inputs, tmp_path / "again", lines, **changes)
    shutil.copytree(job.work_folder, again.work_folder, dirs_exist_ok=True)
    train.build(again)
    assert again.draft.counts["not_validated"] == 1
    assert "1 checkpoints could not be validated" in lines
    assert len([line for line in lines if line.startswith("validation after step 2 failed")]) == 2
    best = make_job(inputs, tmp_path / "best", result="best", **changes)
    shutil.copytree(again.work_folder, best.work_folder, dirs_exist_ok=True)
    with pytest.raises(WorkError, match=r"1 checkpoints could not be validated(.|\n)*only these are validated again"):
        train.build(best)


def test_a_validation_that_fits_nowhere_is_refused_at_once(inputs, tmp_path):
    job = make_job(inputs, tmp_path, validation={"asynchronous": True, "cpus": 999})
    groups = len(ray.util.placement_group_table())
    with pytest.raises(ConfigError, match="no node of this cluster has 999 CPU"):
        train.build(job)
    assert len(ray.util.placement_group_table()) == groups
