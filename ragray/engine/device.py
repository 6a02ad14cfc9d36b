"""What device is at hand: the CPU, or an NVIDIA GPU as nvidia-smi describes it.

In: this machine. Out: `DeviceInfo`. What cannot be asked, such as a GPU where nvidia-smi is missing, is None.
"""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import replace
from pathlib import Path

from ragray.engine.protocol import DeviceInfo

CPU = "cpu"
_CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "asimd", "i8mm")
_QUERY = ("name", "compute_cap", "driver_version", "memory.total")
_TIMEOUT_S = 30.0
_MODEL = re.compile(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)")  # capitals with a digit, behind the maker


def this_device() -> DeviceInfo:
    """The CPU of this machine."""
    facts = _cpu_facts()
    name = facts.get("model name") or platform.processor() or platform.machine()
    flags = facts.get("flags", facts.get("Features", "")).split()
    features = tuple(feature for feature in _CPU_FEATURES if feature in flags)
    return DeviceInfo(type=CPU, arch=platform.machine(), name=name, features=features)


def device_here(device_type: str) -> DeviceInfo:
    """The device of a type that Ray gave to this process: "cpu", or an accelerator type such as "H100".

    The type is taken as given; where nvidia-smi is missing or fails, a GPU's facts are None.
    """
    if device_type == CPU:
        return this_device()
    listed = _nvidia_smi(f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits")
    if not listed:
        return DeviceInfo(type=device_type, arch=platform.machine(), name=device_type)
    return gpu_facts(device_type, listed, _nvidia_smi() or "")


def device_for(built_for: DeviceInfo) -> DeviceInfo:
    """The device of this machine that an engine would run on: a GPU for one that was built for GPUs, else the CPU."""
    if built_for.type == CPU:
        return this_device()
    found = device_here(built_for.type)
    if found.compute_capability is None:
        return this_device()
    same = found.name == built_for.name
    return replace(found, type=built_for.type if same else accelerator_type(found.name))


def accelerator_type(name: str) -> str:
    """Ray's accelerator type of a GPU's name: "NVIDIA H100 80GB HBM3" -> "H100"."""
    found = _MODEL.match(name)
    if found and len(found.group(1)) > 1:
        return found.group(1).replace(" ", "-")
    return re.sub(r"^NVIDIA\s+", "", name).strip().replace(" ", "-")


def gpu_facts(device_type: str, listed: str, shown: str) -> DeviceInfo:
    """A GPU as nvidia-smi describes it.

    Args:
        device_type: Ray's name of it.
        listed: what `nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total` printed: a line for each GPU.
        shown: what `nvidia-smi` alone printed; its head names the CUDA version.
    """
    name, capability, driver, mebibytes = (_known(part) for part in listed.splitlines()[0].split(","))
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", shown)
    return DeviceInfo(
        type=device_type,
        arch=platform.machine(),
        name=name or device_type,
        memory_bytes=int(mebibytes) * 2**20 if mebibytes else None,
        compute_capability=capability,
        driver=driver,
        cuda=cuda.group(1) if cuda else None,
    )


def _known(part: str) -> str | None:
    """What nvidia-smi says, or None for `[N/A]` and the like."""
    part = part.strip()
    return None if not part or part.startswith("[") else part


def _nvidia_smi(*arguments: str) -> str | None:
    try:
        ran = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def _cpu_facts() -> dict[str, str]:
    """What Linux says of the first processor; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return {}
    lines = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
