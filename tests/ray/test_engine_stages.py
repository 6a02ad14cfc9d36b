"""Quantize and engine as Ray tasks: their artifacts load, repeat byte for byte, and errors come back whole."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ragray.artifact import Artifact, Store
from ragray.config import RunConfig
from ragray.config_engine import DeviceEngineConfig
from ragray.config_loading import validate_config
from ragray.distributed import build_engine, quantize
from ragray.distributed.devices import no_place, placement
from ragray.distributed.folder_task import PIECE_BYTES, _check, _Damaged, collect_all, start
from ragray.distributed.stage import Job, Stage, bring
from ragray.engine.protocol import SamplingParams
from ragray.engine.runtime import load_engine
from ragray.errors import EngineError, WorkError

sys.path.append(str(Path(__file__).parents[1] / "unit" / "engine"))
from tiny_model import make_model_folder

pytestmark = pytest.mark.usefixtures("ray_local")


def config_of(folder: Path, **engine: Any) -> RunConfig:
    return validate_config(
        {
            "name": "test",
            "output": str(folder),
            "data": {"faq": [{"path": "none.jsonl"}]},
            "train": {"base_model": "none"},
            "engine": {"cpu_threads": 1, **engine},
        },
        "test",
    )


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_merged(tmp_path_factory.mktemp("merged"))


def write_merged(folder: Path, *, damaged: bool = False) -> Artifact:
    store = Store(str(folder))
    with store.draft("merge", "0" * 64, format_version=1, inputs={}, config={}, code="") as draft:
        make_model_folder(draft.folder / "model")
        if damaged:
            (draft.folder / "model" / "model.safetensors").write_bytes(b"not tensors")
    assert draft.result is not None
    return draft.result


def run(stage: Stage, config: RunConfig, merged: Artifact) -> Artifact:
    store = Store(config.output)
    with store.draft(stage.name, "1" * 64, format_version=1, inputs={}, config={}, code="") as draft:
        stage.build(Job(config, {"merge": merged}, draft, Path(config.output)))
    assert draft.result is not None
    return draft.result


def test_an_engine_is_built_verified_and_loads(tmp_path: Path, merged: Artifact) -> None:
    config = config_of(tmp_path, weights="fp32")
    artifact = run(build_engine.STAGE, config, merged)
    assert artifact.manifest.metrics["prefix_share"] == 1.0
    assert {"build", "verify"} < artifact.manifest.timings_s.keys()
    assert "agreement 1.00, F1 1.00" in build_engine.STAGE.headline(artifact)
    assert "verified: " in artifact.file("build.log").read_text()
    assert not {"engine.json", "build.log"} & {n for n, f in artifact.manifest.files.items() if not f["volatile"]}
    engine = load_engine(artifact.folder, config.engine)
    assert len(engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=4))[0].token_ids) <= 4
    engine.close()


def test_quantized_checkpoints_are_recorded(tmp_path: Path, merged: Artifact) -> None:
    artifact = run(quantize.STAGE, config_of(tmp_path), merged)
    record = json.loads(artifact.file("quantize.json").read_text())["bitsandbytes_int8"]
    assert record["bytes"] < record["full_bytes"]
    assert record["argmax_agreement"] > 0.8
    assert artifact.file("bitsandbytes_int8/tokenizer.json").exists()
    assert "bitsandbytes_int8: 0.1 MB of 0.1 MB" in quantize.STAGE.headline(artifact)


def test_an_error_in_a_task_comes_back_as_it_was_raised_and_the_builds_log_is_kept(tmp_path: Path) -> None:
    merged = write_merged(tmp_path / "damaged", damaged=True)
    with pytest.raises(EngineError, match="cannot be loaded") as caught:
        run(build_engine.STAGE, config_of(tmp_path), merged)
    log = Path(caught.value.fix.rpartition("the build's log: ")[2])
    assert "plan: " in log.read_text() and "failed: " in log.read_text()


def test_a_tasks_folder_arrives_whole_in_pieces(tmp_path: Path) -> None:
    def fill(size: int, out: Path) -> str:
        (out / "nested").mkdir()
        (out / "nested" / "big.bin").write_bytes(bytes(range(256)) * (size // 256))
        (out / "empty.txt").touch()
        return "filled"

    size = PIECE_BYTES + 512
    task = start("fill", fill, size, options={"num_cpus": 1}, limit_s=60)
    assert task.collect(tmp_path) == "filled"
    assert (tmp_path / "nested" / "big.bin").read_bytes() == bytes(range(256)) * (size // 256)
    assert (tmp_path / "empty.txt").read_bytes() == b""


def test_a_task_that_waits_for_the_cpu_of_another_may_be_collected_before_it(tmp_path: Path) -> None:
    def fill(number: int, out: Path) -> int:
        for part in range(12):  # more pieces than wait for their reader
            (out / f"{part}").write_text(str(number))
        return number

    import ray

    whole = {"num_cpus": int(ray.cluster_resources()["CPU"])}
    tasks = [start("fill", fill, number, options=whole, limit_s=30) for number in range(3)]
    folders = [tmp_path / str(number) for number in range(3)]
    assert collect_all(tasks[::-1], folders[::-1]) == [2, 1, 0]
    assert [(folder / "11").read_text() for folder in folders] == ["0", "1", "2"]


def test_a_worker_that_dies_while_its_files_come_back_leaves_nothing_of_them(tmp_path: Path) -> None:
    """Every file and the result are of the second attempt."""

    def fill(marks: str, out: Path) -> int:
        import os

        for part in range(500):
            (out / f"{part}").write_text(str(os.getpid()))
        (Path(marks) / f"{os.getpid()}").touch()
        return os.getpid()

    def kill() -> None:
        while not list(out.glob(".*/*")):
            time.sleep(0.001)
        os.kill(int(next(marks.iterdir()).name), signal.SIGKILL)

    marks, out = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()
    said: list[str] = []
    task = start("fill", fill, str(marks), options={"num_cpus": 1}, limit_s=60, report=said.append)
    killer = threading.Thread(target=kill)
    killer.start()
    result = task.collect(out)
    killer.join()
    assert len(list(marks.iterdir())) == 2
    assert {path.read_text() for path in out.iterdir()} == {str(result)}
    assert len(list(out.iterdir())) == 500
    assert "fill: its worker was lost; started anew, 1 of 3" in said


def test_files_that_arrive_otherwise_than_they_were_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("changed")
    with pytest.raises(_Damaged, match="one arrived otherwise"):
        _check(tmp_path, {"one": hashlib.sha256(b"written").hexdigest()})
    with pytest.raises(_Damaged, match="two arrived otherwise"):
        _check(tmp_path, {"two": hashlib.sha256(b"").hexdigest()})
    _check(tmp_path, {"one": hashlib.sha256(b"changed").hexdigest()})


def test_a_task_that_finds_no_place_and_one_that_runs_too_long_end_at_limits_of_their_own(tmp_path: Path) -> None:
    def sleep(seconds: float, out: Path) -> None:
        time.sleep(seconds)

    options = placement("H100", DeviceEngineConfig())
    task = start(
        "engine for H100", sleep, 0, options=options, limit_s=60, wait_s=1, unplaced=lambda: no_place("H100", 1)
    )
    with pytest.raises(WorkError, match=r"engine for H100: no node of this type joined .* within 1 s; it has cpu"):
        task.collect(tmp_path)
    task = start("sleep", sleep, 60, options={"num_cpus": 1}, limit_s=1, wait_s=60)
    with pytest.raises(WorkError, match="sleep: not finished within 1 s of its start"):
        task.collect(tmp_path)


def test_waiting_for_a_place_does_not_count_as_running(tmp_path: Path) -> None:
    import ray

    def sleep(seconds: float, out: Path) -> float:
        time.sleep(seconds)
        return seconds

    whole = {"num_cpus": int(ray.cluster_resources()["CPU"])}
    first = start("first", sleep, 4, options=whole, limit_s=60)
    second = start("second", sleep, 0, options=whole, limit_s=3, wait_s=60)
    assert collect_all([second, first], [tmp_path / "b", tmp_path / "a"]) == [0, 4]


def test_the_key_holds_builder_versions_and_the_transformers_engine_ignores_the_weight_format(
    tmp_path: Path,
) -> None:
    settings = build_engine.STAGE.settings
    assert "openvino==" in settings(config_of(tmp_path))["builder"]
    assert settings(config_of(tmp_path, weights="int8")) != settings(config_of(tmp_path, weights="fp32"))
    kinds = [config_of(tmp_path, kind="transformers", weights=w) for w in ("int8", "fp32")]
    assert settings(kinds[0]) == settings(kinds[1])


def test_an_engine_for_the_cpu_is_the_same_however_it_is_asked_for(tmp_path: Path, merged: Artifact) -> None:
    config = config_of(tmp_path, weights="fp32")
    built = build_engine.build_engines(config, merged, ["cpu", "all"])
    assert list(built) == ["engine cpu"]
    again = bring(config, Store(config.output), build_engine.STAGE, {"merge": merged})
    assert again.skipped and again.artifact.digest == built["engine cpu"].artifact.digest


def test_several_failures_are_told_together(tmp_path: Path, merged: Artifact) -> None:
    config = config_of(tmp_path, wait_s=1)
    with pytest.raises(WorkError, match="2 of 2 engines were not built") as caught:
        build_engine.build_engines(config, merged, ["L4", "H100"])
    assert "engine for L4: no node of this type" in caught.value.message
    assert "leave out `--for H100`" in caught.value.message
