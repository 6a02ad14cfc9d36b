"""The types of devices in the cluster, and where a task on one of them runs.

In: a connected Ray. Out: names such as "cpu" and "H100", and Ray's options.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ragray.config_engine import DeviceEngineConfig
from ragray.distributed.folder_task import Report, start
from ragray.distributed.session import living_nodes
from ragray.engine.device import CPU, device_here
from ragray.engine.protocol import DeviceInfo
from ragray.errors import WorkError

ALL = "all"
_PREFIX = "accelerator_type:"  # of Ray's resource names
_ASKING_LIMIT_S = 300.0


def device_types() -> list[str]:
    """The device types of the nodes that are alive now: "cpu" first, then accelerators by name."""
    resources = living_nodes()
    accelerators = {name.removeprefix(_PREFIX) for owned in resources for name in owned if name.startswith(_PREFIX)}
    return [CPU] * any(owned.get("CPU", 0) >= 1 for owned in resources) + sorted(accelerators)


def chosen_types(asked: Sequence[str]) -> list[str]:
    """The device types that are meant by `--for`: "all" stands for those of the cluster."""
    types = [name for each in asked for name in (device_types() if each == ALL else [each])]
    return list(dict.fromkeys(types))


def placement(device_type: str, wanted: DeviceEngineConfig) -> dict[str, Any]:
    """Ray's options that put a build on a device of a type, in its environment."""
    options: dict[str, Any] = {"num_cpus": wanted.num_cpus}
    if device_type != CPU:
        options |= {"num_gpus": wanted.num_gpus, "accelerator_type": device_type}
    if wanted.memory_gib:
        options["memory"] = wanted.memory_gib * 2**30
    named = {"py_executable": wanted.py_executable, "image_uri": wanted.image_uri, "env_vars": wanted.env}
    if environment := {name: value for name, value in named.items() if value}:
        options["runtime_env"] = environment
    return options


def no_place(device_type: str, wait_s: float) -> WorkError:
    """The error of a build that found no device of its type."""
    found = device_types()
    if device_type in found:
        return WorkError(
            f"engine for {device_type}: no {device_type} was free within {wait_s:.0f} s",
            f"wait for what occupies it (`ray status`), reserve less in engine.devices.{device_type}, check its "
            "py_executable or image_uri where one is set, or raise engine.wait_s",
        )
    return WorkError(
        f"engine for {device_type}: no node of this type joined the cluster within {wait_s:.0f} s; it has "
        f"{', '.join(found) or 'none'}",
        f"add a node with a device that Ray calls {device_type}, leave out `--for {device_type}`, or raise "
        "engine.wait_s",
    )


def ask_device(device_type: str, wait_s: float, report: Report) -> DeviceInfo:
    """What a device of a type is, asked on a node that has one, also while the device is in use.

    Raises:
        WorkError: no node of the type joined the cluster within `wait_s` seconds.
    """
    if device_type == CPU:
        return device_here(CPU)
    if device_type not in (found := device_types()):
        has = ", ".join(found) or "none"
        report(f"waiting up to {wait_s:.0f} s for a node of type {device_type}: the cluster has {has}")
    task = start(
        f"asking for the {device_type}",
        _ask,
        device_type,
        options={"num_cpus": 0, "accelerator_type": device_type},
        limit_s=_ASKING_LIMIT_S,
        wait_s=wait_s,
        unplaced=lambda: no_place(device_type, wait_s),
        report=report,
    )
    with tempfile.TemporaryDirectory() as nothing:
        return task.collect(Path(nothing))


def _ask(device_type: str, out: object) -> DeviceInfo:
    return device_here(device_type)
