"""The settings of traces: secrets stay out, and what would have no effect is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from ragray.config import ServeConfig
from ragray.config_loading import validate_section
from ragray.config_traces import TracesConfig
from ragray.errors import ConfigError


@pytest.mark.parametrize(
    "secret",
    [
        {"endpoint": "http://me:hunter2@host:4318"},
        {"endpoint": "https://host/v1/traces?key=hunter2"},
        {"endpoint": "http://host", "headers": {"authorization": "Bearer hunter2"}},
        {"endpoint": "http://host", "headers": {"x-key": "hunter2-key"}},
        {"endpoint": "http://host", "headers": {"x key: hunter2": "NAME"}},
    ],
)
def test_a_secret_is_refused_and_not_shown(secret: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"serve\.traces") as refused:
        validate_section(ServeConfig, {"traces": secret}, "serve")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["host:4318", "grpc://host:4317", "http://", "file:///tmp/x"])
def test_an_endpoint_of_something_else_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="http://HOST:PORT"):
        TracesConfig(endpoint=url)


def test_the_path_of_otlp_is_added_where_there_is_none() -> None:
    for url in ("http://host:4318", "http://host:4318/", "http://host:4318/v1/traces"):
        assert TracesConfig(endpoint=url).endpoint == "http://host:4318/v1/traces"
    assert TracesConfig(endpoint="https://host/otlp/traces").endpoint == "https://host/otlp/traces"


@pytest.mark.parametrize(
    "useless", [{"sample_share": 0.5}, {"service_name": "x"}, {"headers": {"x": "Y"}}, {"queue_spans": 5}]
)
def test_settings_without_an_endpoint_are_refused(useless: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="without endpoint nothing is traced"):
        TracesConfig(**useless)
    TracesConfig(endpoint="http://host", **useless)


def test_a_section_that_was_written_out_is_read_again() -> None:
    for settings in (TracesConfig(), TracesConfig(endpoint="http://host")):
        assert TracesConfig.model_validate(settings.model_dump()) == settings
