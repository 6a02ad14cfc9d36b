"""Who can reach the service, and whether that was meant.

In: the address that is listened on, and the limits. Out: nothing, or a refusal to start: without keys the API answers
on loopback alone, unless the settings say otherwise on purpose.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

from ragray.config import ServeConfig
from ragray.config_limits import LimitsConfig
from ragray.errors import ConfigError
from ragray.serve.keys import read_keys


def check_exposure(host: str, limits: LimitsConfig) -> None:
    """Do nothing when `host` is loopback, or keys are asked for, or going without was chosen.

    Raises:
        ConfigError: whoever reaches this machine could ask.
    """
    if is_loopback(host) or limits.keys_file is not None or limits.allow_no_keys:
        return
    raise ConfigError(
        f"serve.host {host}: other machines could ask without a key",
        "make keys (`ragray keys create NAME --file keys.yaml`) and add `--set serve.limits.keys_file=keys.yaml`; or, "
        "where something in front asks for keys, `--set serve.limits.allow_no_keys=true`",
    )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reachable from this machine alone; other names than localhost are not."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def listening_host() -> str:
    """The address that Serve's proxy listens on, whoever started it."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None  # it raises where Serve does not run
    return str(client.http_config.host)


def with_keys_checked(settings: ServeConfig) -> ServeConfig:
    """The same settings, with a path of the keys file that means the same in every working directory.

    Raises:
        ConfigError: the file cannot be used.
    """
    if settings.limits.keys_file is None:
        return settings
    path = Path(settings.limits.keys_file).expanduser().absolute()
    read_keys(path)
    return settings.model_copy(update={"limits": settings.limits.model_copy(update={"keys_file": str(path)})})
