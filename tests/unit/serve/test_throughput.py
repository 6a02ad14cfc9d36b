"""Serve's settings for a Ray of ragray's own, and the program that keeps HAProxy's other doors on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from ragray.errors import WorkError
from ragray.serve import throughput

CONFIG = """\
global
    stats socket /x/s mode 666 level admin expose-fd listeners
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind *:8000
listen stats
  bind *:8404
  stats enable
"""


def program(folder: Path) -> str:
    """A stand-in for HAProxy that says how it was called."""
    path = folder / "haproxy"
    path.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_statistics_and_metrics_are_moved_to_loopback_and_the_front_stays(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG, encoding="utf-8")
    command = [str(throughput.WRAPPER), "-db", "-f", str(config), "-sf", "12"]
    ran = subprocess.run(command, env={**os.environ, "RAGRAY_HAPROXY": program(tmp_path)}, capture_output=True)
    assert ran.stdout.decode() == f"-db -f {config} -sf 12\n", ran.stderr
    expected = CONFIG.replace("bind :9101", "bind 127.0.0.1:9101").replace("bind *:8404", "bind 127.0.0.1:8404")
    assert config.read_text(encoding="utf-8") == expected.replace("mode 666", "mode 600")
    again = subprocess.run(command, env={**os.environ, "RAGRAY_HAPROXY": program(tmp_path)}, capture_output=True)
    assert again.returncode == 0 and config.read_text(encoding="utf-8") == expected.replace("mode 666", "mode 600")


def test_ray_s_own_template_has_no_other_door() -> None:
    """Each `bind` of Ray's HAProxy configuration is one that is moved, or the one that the user chose."""
    from ray.serve._private import haproxy_templates

    binds = [
        line.strip()
        for template in vars(haproxy_templates).values()
        if isinstance(template, str)
        for line in template.splitlines()
        if line.strip().startswith("bind ")
    ]
    assert sorted(set(binds)) == [
        "bind *:{{ config.stats_port }}",
        "bind :{{ config.metrics_port }}",
        "bind {{ config.frontend_host }}:{{ config.frontend_port }}",
        "bind {{ config.grpc_frontend_host }}:{{ config.grpc_frontend_port }} proto h2",
    ]


def test_every_variable_is_one_that_ray_serve_reads(tmp_path: Path) -> None:
    from ray.serve._private import constants

    source = Path(constants.__file__).read_text(encoding="utf-8")
    given = throughput.settings(tmp_path)
    unread = {name for name in given if f'"{name}"' not in source}
    assert unread == {"RAGRAY_HAPROXY", "RAGRAY_HAPROXY_REQUEST_TIMEOUT"}
    assert given["RAY_SERVE_ENABLE_HA_PROXY"] == "1"  # ray[serve] brings HAProxy on Linux
    assert Path(given["RAGRAY_HAPROXY"]).is_file()


def test_the_user_s_own_variables_win_and_the_others_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RAY_SERVE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_SERVE_USE_GRPC_BY_DEFAULT", "0")
    before = dict(os.environ)
    undo = throughput.apply(10.0)
    folder = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.environ["RAY_SERVE_USE_GRPC_BY_DEFAULT"] == "0"
    assert os.environ["RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"] == "0"
    undo()
    assert dict(os.environ) == before and not folder.exists()


def test_what_is_printed_for_a_shell_leaves_the_user_s_own_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(os.environ):
        if name.startswith("RAY_SERVE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_SERVE_USE_GRPC_BY_DEFAULT", "0")
    throughput.main()
    printed = capsys.readouterr().out
    folder = printed.partition("RAY_SERVE_HAPROXY_SOCKET_PATH=")[2].split("/s\n")[0]
    shutil.rmtree(folder)
    assert "RAY_SERVE_USE_GRPC_BY_DEFAULT" not in printed
    assert "export RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0\n" in printed


def test_without_haproxy_the_settings_are_those_of_serve_s_own_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "haproxy", lambda: None)
    assert not any("HA" in name for name in throughput.settings(tmp_path))
    assert throughput.settings(tmp_path) == throughput.settings(None)


def test_a_wrapper_that_cannot_be_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "haproxy.sh"
    broken.write_bytes(throughput.WRAPPER.read_bytes())
    monkeypatch.setattr(throughput, "WRAPPER", broken)
    with pytest.raises(WorkError, match=r"chmod \+x.*serve.fast_http=false"):
        throughput.settings(tmp_path)


def test_haproxys_ports_are_free_and_out_of_the_range_that_others_draw_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        first = taken.getsockname()[1]
        monkeypatch.setattr(throughput, "_PORT_RANGE", range(first, first + 20))
        ports = [int(throughput.settings(tmp_path)[name]) for name in throughput._PORTS]
    assert len(set(ports)) == len(ports) == 4 and first not in ports
    monkeypatch.undo()
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert min(throughput._PORT_RANGE) >= 20_000 and max(throughput._PORT_RANGE) < min(30_000, lowest)
