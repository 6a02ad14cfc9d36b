"""Real Ray Train runs on the CPU: two workers like one, a killed worker, clear errors."""

from __future__ import annotations

import os
import runpy
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ragray.artifact import Artifact, Draft, folder_digest
from ragray.config_loading import validate_config
from ragray.distributed import merge, train
from ragray.distributed.stage import Job
from ragray.errors import ConfigError, DataError, WorkError

pytestmark = pytest.mark.usefixtures("ray_local")

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "unit" / "train" / "conftest.py")))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny.make_tiny_model(folder / "tiny")
    (folder / "augment").mkdir()
    tiny.write_examples(folder / "augment" / "examples.parquet", tiny.example_rows(32, 4))
    return folder


def make_job(inputs, folder, lines=None, leaked=0, **changes):
    settings = {
        "base_model": str(inputs / "tiny"),
        "epochs": 2,
        "global_batch_examples": 4,
        "learning_rate": 3e-3,
        "max_length": 512,
        "tokens_per_micro_batch": 512,
        "checkpoint_every_steps": 4,
        **changes,
    }
    config = validate_config(
        {"name": "t", "output": str(folder), "data": {"faq": [{"path": "x"}]}, "train": settings}, "test"
    )
    (folder / "draft").mkdir(parents=True)
    (folder / "work").mkdir()
    audit = {"leakage": {"tests": 10, "leaked": leaked, "leaked_share": leaked / 10}}
    needs = {
        "prepare": Artifact("prepare", inputs / "prepare", SimpleNamespace(metrics=audit)),
        "augment": Artifact("augment", inputs / "augment", None),
    }
    report = lines.append if lines is not None else lambda line: None
    return Job(config, needs, Draft(folder / "draft"), folder / "work", report)


def test_leaked_test_questions_are_refused_by_name(inputs, tmp_path):
    (inputs / "prepare").mkdir()
    row = {"test_id": "t1", "test_question": "Who?", "train_id": "r1", "train_question": "who", "jaccard": 1.0,
           "cosine": 1.0, "leaked": True}  # fmt: skip
    pq.write_table(
        pa.Table.from_pylist([row, {**row, "test_id": "t2", "leaked": False}]), inputs / "prepare" / "leakage.parquet"
    )
    with pytest.raises(
        DataError, match=r"1 of 10 test questions \(10\.0%\).*t1 'Who\?' ~ r1 'who' \(Jaccard 1\.00"
    ) as caught:
        train.build(make_job(inputs, tmp_path / "a", leaked=1))
    assert "t2" not in str(caught.value) and "train.max_leaked_share=0.1" in caught.value.fix
    train.check_leakage(make_job(inputs, tmp_path / "b", leaked=1).inputs["prepare"], 0.1)


def run(inputs, folder, **changes):
    job = make_job(inputs, folder, **changes)
    train.build(job)
    return job


def history(job):
    from ragray.train.monitor import History

    return History.load(job.draft.folder)


@pytest.fixture(scope="module")
def two_workers(ray_local, inputs, tmp_path_factory):
    lines = []
    job = make_job(inputs, tmp_path_factory.mktemp("two") / "job", lines, num_workers=2, zero_stage=2)
    train.build(job)
    return job, lines


def test_two_workers_give_the_losses_of_one(two_workers, inputs, tmp_path):
    job, lines = two_workers
    one = run(inputs, tmp_path / "one", num_workers=1, zero_stage=0)
    assert history(job).losses == pytest.approx(history(one).losses, abs=1e-5)
    assert history(job).valid_losses == pytest.approx(history(one).valid_losses, abs=1e-5)
    assert job.draft.counts == one.draft.counts
    assert lines[-1].startswith("step 16/16  loss ")


def test_the_artifact_has_no_machine_paths_beyond_the_users_own(two_workers):
    job, _ = two_workers
    folder = job.draft.folder
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "base_model.json",
        "history.parquet",
        "loss.svg",
        "timings.parquet",
    ]
    assert job.draft.volatile == {"timings.parquet"}
    assert job.draft.metrics["valid_loss_after"] < job.draft.metrics["valid_loss_before"]


def test_a_killed_worker_is_survived_with_the_same_bytes(two_workers, inputs, tmp_path):
    job = make_job(inputs, tmp_path / "killed", num_workers=2, zero_stage=2, checkpoint_every_steps=1)
    killed = []
    killer = threading.Thread(target=kill_a_worker_after, args=(job.work_folder / "checkpoints", killed), daemon=True)
    killer.start()
    train.build(job)
    killer.join(timeout=1)
    assert killed, "no worker was killed before the run ended"
    whole, _ = two_workers
    assert folder_digest(job.draft.folder / "adapter") == folder_digest(whole.draft.folder / "adapter")
    assert history(job).records == history(whole).records


def kill_a_worker_after(checkpoints: Path, killed: list[int]) -> None:
    """kill -9 one training worker of this test's own Ray once the first checkpoint is there."""
    for _ in range(6000):
        if list(checkpoints.glob("step-*")):
            workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in "".join(p.cmdline())]
            os.kill(workers[-1].pid, signal.SIGKILL)
            killed.append(workers[-1].pid)
            return
        time.sleep(0.05)


def test_more_workers_than_fit_is_an_error_at_once(inputs, tmp_path):
    with pytest.raises(ConfigError, match="999 workers of 1 CPU each do not fit in this cluster"):
        run(inputs, tmp_path / "many", num_workers=999)


def test_an_error_in_a_worker_comes_out_as_ours(inputs, tmp_path):
    with pytest.raises(ConfigError, match=r"this model has no c_attn(.|\n)*choose from down_proj") as caught:
        run(inputs, tmp_path / "bad", lora={"target_modules": ["c_attn"]}, max_failures=0)
    assert "Traceback" not in str(caught.value)


def test_what_ray_reports_without_an_error_of_ours_keeps_its_last_line():
    found = train.explain(RuntimeError("Training failed\n\nActorDiedError: out of memory"))
    assert isinstance(found, WorkError)
    assert "out of memory" in str(found)


def test_merging_twice_gives_the_same_bytes_and_a_plain_model(two_workers, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained, _ = two_workers
    digests = set()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        needs = {"train": Artifact("train", trained.draft.folder, None)}
        job = Job(trained.config, needs, Draft(tmp_path / name), tmp_path)
        merge.build(job)
        digests.add(folder_digest(tmp_path / name))
        assert job.draft.counts == {"layers": 14, "token_rows": 0}
    assert len(digests) == 1
    AutoModelForCausalLM.from_pretrained(tmp_path / "first" / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "first" / "model").chat_template
