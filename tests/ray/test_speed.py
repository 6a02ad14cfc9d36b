"""Stage speed: every setting is measured on the engine and on the model it was built from, and reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_service import PASSAGES, random_model, save  # type: ignore[import-not-found]

from ragray.artifact import Artifact, Store
from ragray.config import EngineConfig, RetrievalConfig, RunConfig
from ragray.config_loading import validate_config
from ragray.distributed import speed
from ragray.distributed.pipeline import STAGES, stages_for
from ragray.distributed.stage import Job
from ragray.errors import EngineError

pytestmark = pytest.mark.usefixtures("ray_local")

SWEEP = {"batch_sizes": [4], "concurrency": [1, 3], "prompt_tokens": [12], "new_tokens": [5], "requests": 4}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    from ragray.engine.build import build_engine
    from ragray.retrieval.writing import build_index

    root = tmp_path_factory.mktemp("speed")
    store = Store(str(root / "artifacts"))
    merge = save(store, "merge", lambda draft: random_model(draft.folder / "model"))
    engine = EngineConfig(weights="fp32", cpu_threads=1)
    return {
        "index": save(store, "index", lambda draft: build_index(PASSAGES, RetrievalConfig(), draft.folder)),
        "merge": merge,
        "engine": save(store, "engine", lambda d: build_engine(merge.folder / "model", engine, d.folder)),
    }


def config_of(folder: Path, **changes: object) -> RunConfig:
    tree = {
        "name": "test",
        "output": str(folder),
        "data": {"faq": [{"path": "none.jsonl"}]},
        "train": {"base_model": "none"},
        "engine": {"cpu_threads": 1},
        "speed": {**SWEEP, **changes},
    }
    return validate_config(tree, "test")


def run(config: RunConfig, inputs: dict[str, Artifact], lines: list[str]) -> Artifact:
    store = Store(config.output)
    with store.draft("speed", "1" * 64, format_version=1, inputs={}, config={}, code="") as draft:
        speed.STAGE.build(Job(config, inputs, draft, Path(config.output), lines.append))
    assert draft.result is not None
    return draft.result


def test_a_sweep_measures_every_setting_on_both(tmp_path: Path, inputs: dict[str, Artifact]) -> None:
    lines: list[str] = []
    made = run(config_of(tmp_path, price_per_hour={"cpu": 0.1}), inputs, lines)
    engines = {e["name"]: e for e in json.loads(made.file("speed.json").read_text())["engines"]}
    assert engines.keys() == {"openvino fp32 on cpu", "transformers fp32 on cpu"}
    for engine in engines.values():
        settings = [(c["batch_size"], c["concurrency"], c["requests"]) for c in engine["cells"]]
        assert settings == [(4, 1, 4), (4, 3, 6)], "at least two requests for each client"
        assert 0 < engine["loaded_bytes"] <= engine["peak_bytes"]
        for cell in engine["cells"]:
            assert cell["first_token_s"] == sorted(cell["first_token_s"])
            assert 0 < cell["total_s"][2] <= cell["seconds"]
    folders = {
        "openvino fp32": inputs["engine"].folder / "engine",
        "transformers fp32": inputs["merge"].folder / "model",
    }
    for name, folder in folders.items():
        size = sum(path.stat().st_size for path in folder.rglob("*"))
        assert engines[f"{name} on cpu"]["disk_bytes"] == size
    assert {name for name in made.manifest.files if not made.manifest.files[name]["volatile"]} == set()
    assert "USD a million tokens" in made.file("report.md").read_text(encoding="utf-8")
    assert len(lines) == 2 and "openvino fp32 on cpu, batch 4: 2 settings" in lines[0]
    assert "tokens/s" in speed.STAGE.headline(made)


def test_the_engine_alone_is_measured_at_each_batch_size(tmp_path: Path, inputs: dict[str, Artifact]) -> None:
    lines: list[str] = []
    made = run(config_of(tmp_path, reference=False, batch_sizes=[1, 2], concurrency=[1]), inputs, lines)
    assert made.manifest.counts["engines"] == 1 and len(lines) == 2
    (engine,) = json.loads(made.file("speed.json").read_text())["engines"]
    assert [cell["batch_size"] for cell in engine["cells"]] == [1, 2]


def test_lengths_beyond_the_model_are_the_users_error(tmp_path: Path, inputs: dict[str, Artifact]) -> None:
    with pytest.raises(EngineError, match="takes 1 to") as caught:
        run(config_of(tmp_path, prompt_tokens=[100_000], concurrency=[1]), inputs, [])
    assert caught.value.fix


def test_only_the_named_target_measures_speed() -> None:
    assert speed.STAGE not in STAGES, "`ragray run` leaves it out"
    assert [stage.name for stage in stages_for("speed")][-2:] == ["engine", "speed"]
