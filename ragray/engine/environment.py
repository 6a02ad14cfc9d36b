"""The interpreters of their own that some builders run commands in.

In: what a builder needs, and the settings of a device type. Out: the Python of each environment, checked.
"""

from __future__ import annotations

import json
import subprocess
import sys

from ragray.config import EngineConfig
from ragray.engine.protocol import Builder, Environment
from ragray.errors import ConfigError

_ASK_VERSIONS = """
import importlib.metadata, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""
_TIMEOUT_S = 120.0


def check_named(builder: Builder, settings: EngineConfig, device_type: str) -> None:
    """Check, before any work and on any machine, that the settings name every environment that a builder needs.

    Raises:
        ConfigError: one is not named.
    """
    wanted = settings.device(device_type)
    if wanted.py_executable or wanted.image_uri:
        return  # the whole task runs in an environment of its own
    for environment in builder.environment():
        if environment.name not in wanted.interpreters:
            raise ConfigError(
                f"the {builder.name} engine for {device_type} is built in an environment of its own, with "
                f"{_written(environment)}",
                f"make one on the {device_type} machines and set engine.devices.{device_type}.interpreters."
                f"{environment.name} to its Python",
            )


def checked_interpreters(builder: Builder, settings: EngineConfig, device_type: str) -> dict[str, str]:
    """The Python of each environment that a builder needs, on the machine where this runs.

    Raises:
        ConfigError: one cannot be run, or has not the packages that are needed.
    """
    check_named(builder, settings, device_type)
    found: dict[str, str] = {}
    for environment in builder.environment():
        python = python_of(environment.name, settings, device_type)
        assert python is not None  # named, as was checked
        check_environment(environment, python, device_type)
        found[environment.name] = python
    return found


def python_of(environment: str, settings: EngineConfig, device_type: str) -> str | None:
    """The Python of an environment on machines of a type, this one where the whole task has one; None: not named."""
    wanted = settings.device(device_type)
    whole = wanted.py_executable or wanted.image_uri
    return wanted.interpreters.get(environment, sys.executable if whole else None)


def check_environment(environment: Environment, python: str, device_type: str) -> None:
    """Check that an interpreter has the packages of an environment.

    Raises:
        ConfigError: it cannot be run, or a package is missing or of another version.
    """
    fix = (
        f"install {_written(environment)} there, or name another Python in engine.devices.{device_type}."
        f"interpreters.{environment.name}"
    )
    ask = [python, "-c", _ASK_VERSIONS, *environment.packages]
    try:
        ran = subprocess.run(ask, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        found: dict[str, str | None] = json.loads(ran.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(
            f"the Python of the environment {environment.name} on {device_type} cannot be run: {error}", fix
        ) from None
    for name, needed in environment.packages.items():
        version = (found[name] or "none").split("+")[0]
        if version != needed and not version.startswith(f"{needed}."):
            raise ConfigError(
                f"the environment {environment.name} on {device_type} ({python}) needs {name} {needed}; it has "
                f"{version}",
                fix,
            )


def _written(environment: Environment) -> str:
    return " ".join(f"{name}=={version}" for name, version in environment.packages.items())
