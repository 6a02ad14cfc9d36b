"""The engine as a Ray task: its artifact loads, repeats byte for byte, and errors come back whole."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ragray.artifact import Artifact, Store
from ragray.config import EngineConfig, RunConfig
from ragray.config_loading import validate_config
from ragray.distributed import build_engine
from ragray.distributed.folder_task import PIECE_BYTES, collect_all, start
from ragray.distributed.stage import Job, Stage
from ragray.engine.protocol import SamplingParams
from ragray.engine.runtime import load_engine
from ragray.errors import EngineError, WorkError

sys.path.append(str(Path(__file__).parents[1] / "unit" / "engine"))
from tiny_model import make_model_folder

pytestmark = pytest.mark.usefixtures("ray_local")


def config_of(folder: Path, **engine: str) -> RunConfig:
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
    assert {"build", "load", "verify"} < artifact.manifest.timings_s.keys()
    assert "agreement 1.00" in build_engine.STAGE.headline(artifact)
    engine = load_engine(artifact.folder, config.engine)
    assert len(engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=4))[0].token_ids) <= 4
    engine.close()


def test_an_error_in_a_task_comes_back_as_it_was_raised(tmp_path: Path) -> None:
    merged = write_merged(tmp_path / "damaged", damaged=True)
    with pytest.raises(EngineError, match="cannot be loaded") as caught:
        run(build_engine.STAGE, config_of(tmp_path), merged)
    assert caught.value.fix


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


def test_a_task_that_no_node_can_run_ends_at_its_time_limit(tmp_path: Path) -> None:
    task = start("engine for H100", bytes, options=build_engine.placement("H100"), limit_s=1)
    with pytest.raises(WorkError, match="engine for H100: not finished within 1 s"):
        task.collect(tmp_path)


def test_the_key_holds_builder_versions_and_the_transformers_engine_ignores_the_weight_format(
    tmp_path: Path,
) -> None:
    settings = build_engine.STAGE.settings
    assert "openvino==" in settings(config_of(tmp_path))["builder"]
    assert settings(config_of(tmp_path, weights="int8")) != settings(config_of(tmp_path, weights="fp32"))
    kinds = [config_of(tmp_path, kind="transformers", weights=w) for w in ("int8", "fp32")]
    assert settings(kinds[0]) == settings(kinds[1])
    assert EngineConfig(kind="transformers").kind == "transformers"
