"""Without keys the API is for this machine alone, unless that was chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragray.config import ServeConfig
from ragray.config_limits import LimitsConfig
from ragray.config_loading import load_config
from ragray.errors import ConfigError
from ragray.serve.app import serve_app
from ragray.serve.exposure import check_exposure, is_loopback, with_keys_checked
from ragray.serve.keys import write_keys


@pytest.mark.parametrize("origin", ["https://Intranet.Example", "HTTPS://intranet.example:443"])
def test_an_origin_is_compared_as_browsers_send_it(origin: str) -> None:
    assert LimitsConfig(cors_origins=(origin, "http://a.example:81")).cors_origins == (
        "https://intranet.example",
        "http://a.example:81",
    )


def test_log_prompts_without_lines_and_more_open_requests_than_serve_gives_are_refused() -> None:
    with pytest.raises(ValueError, match=r"log_prompts: no request gets a line"):
        LimitsConfig(log_prompts=True, log_requests="none")
    assert LimitsConfig(log_prompts=True, log_requests="failed").log_prompts
    with pytest.raises(ValueError, match="less than or equal to 1000"):
        LimitsConfig(max_open_requests=1001)
    assert LimitsConfig(max_open_requests=1000).max_open_requests == 1000


def test_only_addresses_of_this_machine_are_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")))
    others = ("0.0.0.0", "::", "", "10.0.0.7", "fe80::1", "example.com", "localhost.example.com", "1.0.0.127")
    assert not any(map(is_loopback, others))


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7", "::"])
def test_beyond_loopback_keys_are_needed_or_a_word(host: str) -> None:
    with pytest.raises(ConfigError, match=r"without a key.*\n.*ragray keys create.*allow_no_keys=true"):
        check_exposure(host, LimitsConfig())
    check_exposure(host, LimitsConfig(keys_file="keys.yaml"))
    check_exposure(host, LimitsConfig(allow_no_keys=True))
    check_exposure("127.0.0.1", LimitsConfig())


def test_the_keys_file_is_checked_and_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ServeConfig(limits=LimitsConfig(keys_file="keys.yaml"))
    with pytest.raises(ConfigError, match=r"keys\.yaml: no such file"):
        with_keys_checked(settings)
    write_keys(tmp_path / "keys.yaml", [])
    assert with_keys_checked(settings).limits.keys_file == str(tmp_path / "keys.yaml")
    assert with_keys_checked(ServeConfig()) == ServeConfig()


def test_serving_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="without a key"):
        serve_app(load_config("configs/demo.yaml", ["serve.host=0.0.0.0"]), block=False)


@pytest.mark.parametrize("origin", ["intranet.example", "https://a.example/", "ftp://a", "https://", "", "null"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="no origin"):
        LimitsConfig(cors_origins=(origin,))
    assert LimitsConfig(cors_origins=("*", "http://localhost:3000")).cors_origins[0] == "*"
