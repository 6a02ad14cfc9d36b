"""What a GPU is, as nvidia-smi says it, and where an engine for it may be loaded."""

import platform
from pathlib import Path

import pytest

from ragray.engine.device import accelerator_type, device_for, device_here, gpu_facts, this_device
from ragray.engine.protocol import DeviceInfo

LISTED = "NVIDIA H100 80GB HBM3, 9.0, 550.54.15, 81559\nNVIDIA H100 80GB HBM3, 9.0, 550.54.15, 81559"
SHOWN = "| NVIDIA-SMI 550.54.15       Driver Version: 550.54.15       CUDA Version: 12.4     |"
H100 = DeviceInfo(
    type="H100",
    arch=platform.machine(),
    name="NVIDIA H100 80GB HBM3",
    memory_bytes=81559 * 2**20,
    compute_capability="9.0",
    driver="550.54.15",
    cuda="12.4",
)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that prints what one with a GPU prints."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\nif [ "$1" ]; then echo "{LISTED}"; else echo "{SHOWN}"; fi\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_what_nvidia_smi_prints_is_read() -> None:
    assert gpu_facts("H100", LISTED, SHOWN) == H100


def test_what_it_does_not_know_is_none() -> None:
    found = gpu_facts("L4", "NVIDIA L4, 8.9, [N/A], [N/A]", "")
    assert (found.driver, found.memory_bytes, found.cuda, found.compute_capability) == (None, None, None, "8.9")


def test_a_device_is_asked_where_nvidia_smi_is_and_unknown_where_it_is_not_or_fails(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = DeviceInfo(type="H100", arch=platform.machine(), name="H100")
    assert device_here("H100") == H100
    nvidia_smi.write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert device_here("H100") == unknown
    nvidia_smi.unlink()
    monkeypatch.setenv("PATH", str(nvidia_smi.parent))
    assert device_here("H100") == unknown


def test_an_engine_for_a_gpu_is_held_against_the_gpu_of_this_machine_or_its_cpu(nvidia_smi: Path) -> None:
    assert device_for(H100) == H100
    l4 = DeviceInfo(type="L4", arch=platform.machine(), name="NVIDIA L4", compute_capability="8.9")
    assert device_for(l4) == H100
    assert device_for(this_device()) == this_device()
    nvidia_smi.write_text("#!/bin/sh\nexit 9\n")
    assert device_for(H100) == this_device()


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA A100-SXM4-80GB", "NVIDIA A10G", "NVIDIA L4", "NVIDIA L40S",
        "Tesla T4", "Tesla V100-SXM2-16GB", "NVIDIA GeForce RTX 5090", "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "NVIDIA B200",
    ],
)  # fmt: skip
def test_a_gpus_type_is_what_ray_calls_it(name: str) -> None:
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

    assert accelerator_type(name) == NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(name)
