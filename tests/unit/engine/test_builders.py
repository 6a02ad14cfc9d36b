"""Which builder and plan a device gets, what an engine's key holds, and environments of their own."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from ragray.config import EngineConfig
from ragray.config_engine import DeviceEngineConfig
from ragray.config_loading import load_config
from ragray.engine import runtime
from ragray.engine.build import choose_target
from ragray.engine.builders import BUILDERS, OpenVinoBuilder
from ragray.engine.device import this_device
from ragray.engine.environment import check_environment, check_named, checked_interpreters
from ragray.engine.protocol import BuildPlan, DeviceInfo, EngineSpec, Environment, Limits
from ragray.errors import ConfigError, EngineError

H100 = DeviceInfo(type="H100", arch="x86_64", name="NVIDIA H100", compute_capability="9.0")
NUMPY = Environment("numbers", {"numpy": version("numpy").rsplit(".", 1)[0], "pydantic": version("pydantic")})


class GpuBuilder(OpenVinoBuilder):
    """For accelerators, in an environment of its own; compiled for its limits."""

    name = "gpu"

    def version(self) -> str:
        return "gpu==1"

    def environment(self) -> tuple[Environment, ...]:
        return (NUMPY,)

    def supports(self, device: DeviceInfo, spec: EngineSpec) -> str | None:
        return "the gpu engine runs on accelerators" if device.type == "cpu" else None

    def plan(self, device: DeviceInfo, spec: EngineSpec) -> BuildPlan:
        limits = Limits(spec.max_batch_size, spec.max_input_tokens, spec.max_input_tokens + spec.max_new_tokens)
        return BuildPlan(spec.weights or "fp8", limits)


@pytest.fixture
def gpu_builder() -> Iterator[None]:
    others = dict(BUILDERS)
    BUILDERS.clear()
    BUILDERS.update({"openvino": others["openvino"], "gpu": GpuBuilder()})
    yield
    BUILDERS.clear()
    BUILDERS.update(others)


def settings(**h100: object) -> EngineConfig:
    interpreters = {"interpreters": {"numbers": sys.executable}}
    return EngineConfig(devices={"H100": DeviceEngineConfig.model_validate(interpreters | h100)})


def test_the_cpu_gets_the_engine_of_the_settings() -> None:
    assert choose_target(EngineConfig(), this_device()).plan.weights == "int8"
    target = choose_target(EngineConfig(kind="transformers"), this_device())
    assert (target.builder.name, target.plan.weights) == ("transformers", "fp32")
    with pytest.raises(EngineError, match="keeps fp32 weights, not int4") as caught:
        choose_target(
            EngineConfig(kind="transformers", devices={"cpu": DeviceEngineConfig(weights="int4")}), this_device()
        )
    assert "engine.kind" in caught.value.fix


def test_an_engine_starts_in_the_interpreter_that_the_settings_name_and_never_in_this_one(tmp_path: Path) -> None:
    named = EngineConfig(devices={"H100": DeviceEngineConfig(py_executable="/opt/trt/bin/python")})
    imaged = EngineConfig(devices={"H100": DeviceEngineConfig(image_uri="registry/trt:1")})
    assert runtime._python(named, "H100", "tensorrt_llm") == "/opt/trt/bin/python"
    with pytest.raises(EngineError, match="which the settings do not name"):
        runtime._python(imaged, "H100", "tensorrt_llm")


def test_a_gpu_that_no_other_builder_supports_is_left_to_transformers() -> None:
    volta = DeviceInfo(type="V100", arch="x86_64", name="Tesla V100", compute_capability="7.0")
    target = choose_target(EngineConfig(), volta)
    assert (target.builder.name, target.plan.weights) == ("transformers", "fp32")
    with pytest.raises(EngineError, match="X1 tells no compute capability"):
        choose_target(EngineConfig(kind="transformers"), DeviceInfo(type="X1", arch="x86_64", name="X1"))


@pytest.mark.usefixtures("gpu_builder")
def test_an_accelerator_gets_the_first_builder_that_supports_it() -> None:
    target = choose_target(settings(), H100)
    assert (target.builder.name, target.plan.weights) == ("gpu", "fp8")
    assert choose_target(settings(weights="int4"), H100).plan.weights == "int4"
    with pytest.raises(EngineError, match="openvino engine runs on CPUs, not on H100"):
        choose_target(settings(kind="openvino"), H100)


@pytest.mark.usefixtures("gpu_builder")
def test_a_key_holds_all_that_makes_another_engine_and_nothing_else() -> None:
    key = choose_target(settings(), H100).key()
    assert choose_target(settings(), replace(H100, driver="1", cuda="12.4", name="NVIDIA H100 NVL")).key() == key
    assert choose_target(settings(num_cpus=4, env={"A": "b"}), H100).key() == key
    for_h200 = EngineConfig(devices={"H200": settings().device("H100")})
    others = [
        choose_target(for_h200, replace(H100, type="H200")).key(),
        choose_target(settings(), replace(H100, compute_capability="9.1")).key(),
        choose_target(settings(weights="int4"), H100).key(),
        choose_target(settings().model_copy(update={"max_batch_size": 8}), H100).key(),
        choose_target(settings().model_copy(update={"max_input_tokens": 8}), H100).key(),
        choose_target(settings().model_copy(update={"max_new_tokens": 8}), H100).key(),
    ]
    assert all(other != key for other in others)


def test_an_engine_that_is_not_compiled_for_limits_is_the_same_for_all() -> None:
    few, many = (choose_target(EngineConfig(max_batch_size=n, max_input_tokens=n), this_device()) for n in (1, 9))
    assert few.key() == many.key()


@pytest.mark.usefixtures("gpu_builder")
def test_a_missing_environment_is_told_before_any_work() -> None:
    with pytest.raises(ConfigError, match=f"environment of its own, with numpy=={NUMPY.packages['numpy']}") as caught:
        choose_target(EngineConfig(), H100)
    assert "engine.devices.H100.interpreters.numbers" in caught.value.fix
    image = EngineConfig(devices={"H100": DeviceEngineConfig(image_uri="registry/image:1")})
    assert choose_target(image, H100).builder.name == "gpu"  # the whole task runs in it


def test_an_environment_is_asked_for_its_packages(tmp_path: Path) -> None:
    builder = GpuBuilder()
    check_named(builder, settings(), "H100")
    assert checked_interpreters(builder, settings(), "H100") == {"numbers": sys.executable}
    other = Environment("numbers", {"numpy": "1.0"})
    with pytest.raises(ConfigError, match=rf"needs numpy 1\.0; it has {version('numpy')}"):
        check_environment(other, sys.executable, "H100")
    with pytest.raises(ConfigError, match=r"needs tensorrt_llm 1\.2\.1; it has none"):
        check_environment(Environment("trt", {"tensorrt_llm": "1.2.1"}), sys.executable, "H100")
    with pytest.raises(ConfigError, match="trt on H100 cannot be run"):
        check_environment(Environment("trt", {}), str(tmp_path / "python"), "H100")


def test_settings_of_a_device_type_are_checked() -> None:
    demo = Path(__file__).parents[3] / "configs" / "demo.yaml"
    found = load_config(demo, ["engine.devices.H100.weights=fp8", "engine.devices.H100.num_cpus=4"]).engine
    assert (found.device("H100").weights, found.device("H100").num_cpus, found.device("L4").num_cpus) == ("fp8", 4, 1)
    with pytest.raises(ConfigError, match="py_executable or image_uri, not both"):
        load_config(demo, ["engine.devices.H100.py_executable=/a", "engine.devices.H100.image_uri=b"])
    with pytest.raises(ConfigError, match="'GPU' is no device type"):
        load_config(demo, ["engine.devices.GPU.num_cpus=1"])
