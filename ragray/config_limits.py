"""The settings that keep a served application within bounds: who may call, how often, how much and how long.

In: nothing. Out: a part of `config.ServeConfig`, a typed, frozen model with its defaults and limits.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ragray.config_data import Positive, Section

MOST_OPEN_REQUESTS = 1000  # that Serve gives to one replica of the ingress; streams wait for the engine mostly
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}  # browsers leave them out of an origin


class LimitsConfig(Section):
    """Keys and limits of the HTTP API."""

    keys_file: str | None = Field(
        None, description="file of API keys (`ragray keys create`), mode 0600; none: whoever reaches the port may ask"
    )
    allow_no_keys: bool = Field(
        False, description="serve beyond loopback without keys, where something in front asks for them"
    )
    requests_per_minute: Positive | None = Field(
        None, description="of each key that sets none of its own; without keys of all callers together; none: unlimited"
    )
    tokens_per_minute: Positive | None = Field(
        None, description="of prompts and answers, for each key that sets none of its own; none: unlimited"
    )
    concurrency: Positive | None = Field(
        None, description="requests at once, for each key that sets none of its own; none: unlimited"
    )
    shared: bool | None = Field(
        None, description="replicas of the ingress count callers together, in an actor; false: each for itself; "
        "none: together where there may be several",
    )  # fmt: skip
    max_open_requests: int = Field(
        512,
        ge=1,
        le=MOST_OPEN_REQUESTS,
        description="requests at once in one replica of the ingress; further ones get 503 with Retry-After",
    )
    deadline_s: float = Field(
        120.0,
        gt=0,
        le=86400,
        description="longest time for an answer, seconds; the header x-request-timeout shortens it",
    )
    max_body_bytes: Positive = Field(1 << 20, description="largest request body, bytes")
    body_timeout_s: float = Field(10.0, gt=0, le=3600, description="how long a body may take to arrive, seconds")
    max_headers: Positive = Field(64, description="headers of a request")
    max_header_bytes: Positive = Field(16384, description="names and values of a request's headers together, bytes")
    cors_origins: tuple[str, ...] = Field(
        (),
        description="web pages that may call the API, such as https://intranet.example; by default ours alone",
    )
    log_requests: Literal["all", "failed", "none"] = Field(
        "all", description="which requests get a line in the log; failed: those with a status of 400 or more"
    )
    log_prompts: bool = Field(False, description="write questions and answers into these lines, too")

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        found = []
        for origin in origins:
            scheme, separator, host = origin.lower().partition("://")  # as browsers send it
            if origin != "*" and not (scheme in ("http", "https") and separator and host and "/" not in host):
                raise ValueError(
                    f"serve.limits.cors_origins: {origin!r} is no origin; write scheme and host, "
                    "such as https://intranet.example, or * for all"
                )
            found.append(f"{scheme}{separator}{host.removesuffix(_DEFAULT_PORTS.get(scheme, ''))}")
        return tuple(found)

    @model_validator(mode="after")
    def _check_log(self) -> LimitsConfig:
        if self.log_prompts and self.log_requests == "none":
            raise ValueError(
                "serve.limits.log_prompts: no request gets a line with serve.limits.log_requests: none; write all or "
                "failed there, or leave log_prompts out"
            )
        return self
