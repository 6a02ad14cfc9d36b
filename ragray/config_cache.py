"""The settings of the caches in front of retrieval and generation."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from ragray.config_data import Section


class CacheConfig(Section):
    """Answers and retrieval results that are kept, bounded by bytes and by age."""

    exact_mib: float = Field(
        64.0, ge=0.0, le=1 << 20, allow_inf_nan=False,
        description="answers kept, MiB, in each ingress replica and in the actor that several of them share; 0: none",
    )  # fmt: skip
    retrieval_mib: float = Field(
        16.0, ge=0.0, le=1 << 20, allow_inf_nan=False,
        description="retrieval results kept in each ingress replica, MiB; 0: none",
    )  # fmt: skip
    ttl_s: float = Field(86_400.0, gt=0.0, le=1e9, description="how long anything is kept, seconds")
    semantic: bool = Field(
        True,
        description="answer by a near question's answer, where the stage calibrate showed that the budget is kept",
    )
    false_hit_budget: float = Field(
        0.01,
        gt=0.0,
        le=0.1,
        description="highest share of new questions that may get another question's answer: the one-sided 95 % bound "
        "of what calibrate counted",
    )
    store: Literal["auto", "process", "actor", "redis"] = Field(
        "auto",
        description="where replicas share answers: auto takes redis where redis_url is set, "
        "an actor of Ray for several ingress replicas, and the replica's own process for one",
    )
    redis_url: str | None = Field(
        None,
        description="redis://HOST:PORT/DB or rediss://; needs the extra `redis`; user and password are read from "
        "RAGRAY_REDIS_USER and RAGRAY_REDIS_PASSWORD",
    )

    @field_validator("redis_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.username or parts.password or "password" in parts.query:
            raise ValueError(
                "serve.cache.redis_url: holds a secret; set RAGRAY_REDIS_USER and RAGRAY_REDIS_PASSWORD instead"
            )
        if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
            raise ValueError(f"serve.cache.redis_url: write redis://HOST:PORT/DB or rediss://HOST:PORT/DB, not {url!r}")
        return url

    @model_validator(mode="after")
    def _check_store(self) -> CacheConfig:
        if self.store == "redis" and self.redis_url is None:
            raise ValueError("serve.cache.store: redis needs serve.cache.redis_url; write redis://HOST:PORT/DB there")
        if self.redis_url is not None and self.store in {"process", "actor"}:
            raise ValueError(
                f"serve.cache.redis_url: not used with serve.cache.store: {self.store}; write redis or auto there, or "
                "leave the URL out"
            )
        if self.exact_mib == 0 and (self.store in {"actor", "redis"} or self.redis_url is not None):
            raise ValueError(
                "serve.cache.exact_mib: 0 keeps no answers, so there are none to share; write more, or leave "
                "serve.cache.store and serve.cache.redis_url out"
            )
        return self
