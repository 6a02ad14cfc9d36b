"""Real Ray Train runs on the CPU: two workers like one, figures for Prometheus, clear errors."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ragray.artifact import Artifact, Draft, folder_digest
from ragray.config_loading import validate_config
from ragray.config_train import ANY_VALUE, TrainConfig
from ragray.distributed import merge, train, train_group
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
        "epochs": 8,
        "global_batch_examples": 16,
        "learning_rate": 3e-3,
        "max_length": 512,
        "tokens_per_micro_batch": 1024,
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


@pytest.fixture(scope="module")
def one_worker(ray_local, inputs, tmp_path_factory):
    return run(inputs, tmp_path_factory.mktemp("one") / "job", num_workers=1, zero_stage=0)


def test_two_workers_give_the_losses_of_one(two_workers, one_worker):
    job, lines = two_workers
    assert history(job).losses == pytest.approx(history(one_worker).losses, abs=1e-4)
    assert history(job).valid_losses == pytest.approx(history(one_worker).valid_losses, abs=1e-4)
    assert job.draft.counts == one_worker.draft.counts
    assert lines[-1].startswith("step 16/16  loss ")


def test_two_workers_that_share_the_parameters_give_the_losses_of_one(one_worker, inputs, tmp_path):
    job = run(inputs, tmp_path / "z3", num_workers=2, zero_stage=3)
    assert history(job).losses == pytest.approx(history(one_worker).losses, abs=1e-4)
    assert history(job).valid_losses == pytest.approx(history(one_worker).valid_losses, abs=1e-4)


def test_the_best_adapter_is_the_result_where_that_is_asked_for(two_workers, inputs, tmp_path):
    """The run is finished, so that this fills the artifact alone."""
    whole, _ = two_workers
    folders = sorted((whole.work_folder / "checkpoints").glob("step-*"))
    for number, folder in enumerate(folders):
        state = json.loads((folder / "state.json").read_text())
        copy = tmp_path / "job" / "work" / "checkpoints" / folder.name
        shutil.copytree(folder, copy)
        (copy / "state.json").write_text(json.dumps({**state, "valid_loss": 1.0 + number}))
    job = make_job(inputs, tmp_path / "best", result="best")
    shutil.copytree(tmp_path / "job" / "work", job.work_folder, dirs_exist_ok=True)
    train.build(job)
    assert len(folders) > 1
    assert folder_digest(job.draft.folder / "adapter") == folder_digest(folders[0] / "adapter")
    assert job.draft.counts["result_step"] == int(folders[0].name[-8:])
    assert job.draft.metrics["valid_loss_after"] == 1.0
    assert history(job).records == history(whole).records


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
        "metrics.jsonl",
        "ranks.parquet",
        "timings.parquet",
    ]
    assert job.draft.volatile == {"metrics.jsonl", "ranks.parquet", "timings.parquet"}
    assert job.draft.metrics["valid_loss_after"] < job.draft.metrics["valid_loss_before"]


def test_each_worker_measures_itself(two_workers):
    from ragray.train.ranks import load_ranks

    job, _ = two_workers
    ranks = load_ranks(job.draft.folder)
    assert [(made.step, made.rank) for made in ranks] == [(step, rank) for step in range(1, 17) for rank in (0, 1)]
    assert "sink_failures" not in job.draft.metrics, "Ray takes the gauges too"
    by_step = [sum(made.tokens for made in ranks if made.step == step) for step in range(1, 17)]
    assert by_step == [record.tokens for record in history(job).records[1:]]


def test_prometheus_reads_the_figures_of_each_worker(inputs, tmp_path):
    steps = {"epochs": 9999, "max_steps": 150, "checkpoint_every_steps": 9999, "keep_best": 0}
    job = make_job(inputs, tmp_path / "job", num_workers=2, **steps)
    job = replace(job, work_folder=tmp_path / "scraped")  # by its name the run is known
    job.work_folder.mkdir()
    training = threading.Thread(target=train.build, args=(job,))
    training.start()
    wanted = {("loss", "0"), ("tokens_per_s", "0"), ("rank_tokens_per_s", "0"), ("rank_tokens_per_s", "1")}
    found = {}
    while training.is_alive() and not wanted <= found.keys():
        found |= scraped(job.work_folder.name)
        time.sleep(0.2)
    training.join()
    assert wanted <= found.keys()
    assert 0 < found["loss", "0"] < 20
    assert found["tokens_per_s", "0"] > 0


def scraped(run_name: str) -> dict[tuple[str, str], float]:
    """What Prometheus would read from this node about a run, by figure and rank."""
    node = ray.nodes()[0]
    text = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=60).text
    rows = re.findall(r"^ray_ragray_train_(\w+){(.*)} (\S+)$", text, re.MULTILINE)
    tagged = [(name, dict(re.findall(r'(\w+)="(.*?)"', tags)), float(value)) for name, tags, value in rows]
    return {(name, tags["rank"]): value for name, tags, value in tagged if tags["run"] == run_name}


def test_a_run_whose_controller_is_killed_goes_on_in_the_same_process(two_workers, inputs, tmp_path):
    """The places of its workers are free again, though a local Ray's own cleaner of them does nothing."""
    whole, _ = two_workers
    changes = {"num_workers": 2, "zero_stage": 2, "checkpoint_every_steps": 1}
    job = make_job(inputs, tmp_path / "killed", **changes)
    killer = threading.Thread(target=kill_controller, args=(job.work_folder / "checkpoints",))
    killer.start()
    with pytest.raises(WorkError, match="controller of the workers was lost"):
        train.build(job)
    killer.join()
    train.build(job)
    assert folder_digest(job.draft.folder / "adapter") == folder_digest(whole.draft.folder / "adapter")
    assert history(job).records == history(whole).records
    assert not list((job.work_folder / "checkpoints").glob(".*"))
    groups = ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} == {"REMOVED"}


def kill_controller(checkpoints: Path) -> None:
    """kill -9 Ray Train's controller, of this test's own Ray, after the first checkpoint."""
    while not list(checkpoints.glob("step-*")):
        time.sleep(0.01)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "TrainController" in "".join(process.cmdline()):
                process.kill()


def test_a_run_is_the_same_run_with_other_workers_and_another_stage(inputs, tmp_path):
    def settings(name, **changes):
        return train.STAGE.settings(make_job(inputs, tmp_path / name, **changes).config)

    given = settings("given")
    others = {"num_workers": [2, 4], "zero_stage": 3, "threads_per_worker": 2, "gradient_checkpointing": True}
    assert settings("others", **others, max_failures=9, keep_checkpoints=5, monitor={"jsonl": False}) == given
    assert settings("faster", learning_rate=1.0) != given
    dropped = [settings(f"dropout{n}", lora={"dropout": 0.1}, num_workers=n) for n in (1, 2)]
    assert dropped[0] != dropped[1], "each worker draws its own"
    assert TrainConfig.model_fields.keys() >= ANY_VALUE


def test_more_workers_than_fit_is_an_error_at_once(inputs, tmp_path):
    with pytest.raises(ConfigError, match="999 workers of 1 CPU each do not fit in this cluster"):
        run(inputs, tmp_path / "many", num_workers=999)


def test_an_error_in_a_worker_comes_out_as_ours(inputs, tmp_path):
    groups = len(ray.util.placement_group_table())
    with pytest.raises(ConfigError, match=r"this model has no c_attn(.|\n)*choose from down_proj") as caught:
        run(inputs, tmp_path / "bad", lora={"target_modules": ["c_attn"]}, num_workers=2, max_failures=3)
    assert "Traceback" not in str(caught.value)
    assert len(ray.util.placement_group_table()) == groups + 1, "what the plan finds is not tried again"
    with pytest.raises(DataError, match="longer than 8 tokens") as caught_there:
        run(inputs, tmp_path / "long", max_length=8, num_workers=2, max_failures=3)
    assert "Traceback" not in str(caught_there.value)
    assert len(ray.util.placement_group_table()) == groups + 2, "an error that would come again is not tried again"


def test_what_ray_reports_without_an_error_of_ours_keeps_its_last_line():
    found = train_group.explain(RuntimeError("Training failed\n\nActorDiedError: out of memory"))
    assert isinstance(found, WorkError)
    assert "out of memory" in str(found)
    assert "RuntimeError" in str(train_group.explain(RuntimeError("\n")))


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
