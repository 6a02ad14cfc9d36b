"""The settings of traces: whether requests are traced, how many of them, and where their spans go."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from ragray.config_data import Positive, Section, Share

_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")


class TracesConfig(Section):
    """OpenTelemetry traces of requests; needs the extra `traces`."""

    endpoint: str | None = Field(
        None,
        description="OTLP/HTTP collector that gets the spans, such as http://127.0.0.1:4318, to which /v1/traces is "
        "added; none: requests are not traced",
    )
    sample_share: Share = Field(
        1.0, description="share of the requests that are traced; callers who send a `traceparent` decide for theirs"
    )
    service_name: str = Field("ragray", min_length=1, max_length=128, description="`service.name` of the spans")
    headers: dict[str, str] = Field(
        {},
        description="headers for the collector, each with the name of the environment variable that holds its value, "
        "such as {authorization: OTLP_AUTHORIZATION}; read by each replica",
    )
    queue_spans: Positive = Field(
        4096, description="spans of each replica that may wait for the collector; further ones are dropped and counted"
    )

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query:
            raise ValueError("serve.traces.endpoint: may hold a secret; send it by serve.traces.headers")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("serve.traces.endpoint: write http://HOST:PORT or https://HOST:PORT")
        return url if parts.path.strip("/") else url.rstrip("/") + "/v1/traces"

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, variable in headers.items():
            if not _HEADER.match(name) or not _VARIABLE.match(variable):  # the value may be a secret: it is not shown
                raise ValueError(
                    "serve.traces.headers: write HEADER: VARIABLE, the name of an environment variable, not its value"
                )
        return headers

    @model_validator(mode="after")
    def _check_use(self) -> TracesConfig:
        if self.endpoint is None and any(
            getattr(self, name) != field.default for name, field in type(self).model_fields.items()
        ):
            raise ValueError("serve.traces: without endpoint nothing is traced; set it, or leave the section out")
        return self
