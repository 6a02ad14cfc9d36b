"""An engine loads only where it was built for, whole, and verified; the refusal says what to type."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragray.config import EngineConfig
from ragray.config_engine import DeviceEngineConfig
from ragray.engine.build import build_engine, choose_target
from ragray.engine.device import this_device
from ragray.engine.manifest import EngineManifest, release, verified_manifest
from ragray.engine.protocol import SamplingParams
from ragray.engine.runtime import load_engine
from ragray.errors import EngineError

SETTINGS = EngineConfig(kind="transformers", cpu_threads=1)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("good")
    build_engine(model_folder, SETTINGS, folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy"))


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "engine.json"
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def test_the_transformers_engine_is_the_checkpoint_itself(good: Path, model_folder: Path) -> None:
    names = {path.name for path in model_folder.iterdir()}
    assert {path.name for path in (good / "engine").iterdir()} == names
    engine = load_engine(good, SETTINGS)
    assert engine.generate([[7, 8, 9]], SamplingParams(max_new_tokens=3))[0].prompt_tokens == 3
    assert engine.info.digest == EngineManifest.read(good).digest
    engine.close()


def test_a_manifest_reads_back_as_it_was_written(good: Path, tmp_path: Path) -> None:
    manifest = EngineManifest.read(good)
    manifest.write(tmp_path)
    assert EngineManifest.read(tmp_path) == manifest
    assert manifest.device == this_device()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t["device"].update(type="H100", compute_capability="9.0"), r"built for H100 \(.*, compute cap"),
        (lambda t: t["device"].update(arch="riscv64"), "built for cpu \\(riscv64\\); this machine needs one for cpu"),
        (lambda t: t["runtime"].update(transformers="4"), "built for transformers 4; installed is 5"),
        (lambda t: t["verification"].update(usable=False), "answers worse than its model"),
        (lambda t: t.update(verification=None), "never verified"),
        (lambda t: t.update(schema_version=99), "schema 99, this ragray reads 2"),
        (lambda t: t.update(colour="red"), "damaged"),
        (lambda t: t.pop("files"), "damaged"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    change(folder, edit)
    with pytest.raises(EngineError, match=message) as caught:
        load_engine(folder, SETTINGS)
    assert "ragray build-engine" in caught.value.fix


def test_an_engine_for_another_gpu_of_the_same_type_name_is_refused(folder: Path) -> None:
    gpu = replace(this_device(), type="L4", compute_capability="8.9")
    with pytest.raises(EngineError, match="this machine needs one for L4"):
        verified_manifest(folder, gpu)


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_changed_or_missing_file_is_refused(folder: Path, damage: str) -> None:
    path = folder / "engine" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    if damage == "remove":
        path.unlink()
    with pytest.raises(EngineError, match=r"model\.safetensors (was changed|is missing)"):
        load_engine(folder, SETTINGS)


def test_a_folder_without_an_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="holds no engine"):
        load_engine(tmp_path, SETTINGS)


def test_a_kind_that_this_ragray_does_not_know_is_refused(folder: Path) -> None:
    change(folder, lambda tree: tree.update(builder="abacus"))
    with pytest.raises(EngineError, match="kind 'abacus'"):
        load_engine(folder, SETTINGS)


@pytest.mark.parametrize("kind", ["openvino", "transformers", "tensorrt_llm"])
def test_a_gpu_that_tensorrt_llm_does_not_support_gets_the_transformers_engine(kind: str) -> None:
    gpu = replace(this_device(), type="T4", compute_capability="7.5")
    assert choose_target(EngineConfig(kind=kind), gpu).builder.name == "transformers"


def test_a_kind_that_is_named_for_a_device_and_does_not_run_there_is_refused_before_any_work() -> None:
    gpu = replace(this_device(), type="T4", compute_capability="7.5")
    for kind, why in (("openvino", "T4"), ("tensorrt_llm", r"this GPU has 7\.5")):
        with pytest.raises(EngineError, match=why):
            choose_target(EngineConfig(devices={"T4": DeviceEngineConfig(kind=kind)}), gpu)


def test_a_device_that_no_builder_supports_is_refused_before_any_work() -> None:
    other = replace(this_device(), type="TPU-V4", compute_capability=None)
    for kind in ("openvino", "transformers", "tensorrt_llm"):
        with pytest.raises(EngineError, match="TPU-V4 tells no compute capability"):
            choose_target(EngineConfig(kind=kind), other)


def test_release_is_what_an_engine_depends_on() -> None:
    assert release("2026.4.1.0") == "2026.4"
