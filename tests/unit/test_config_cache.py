"""The settings of the caches: secrets stay out, and old names are refused with a hint."""

import pytest
from pydantic import ValidationError

from ragray.config import ServeConfig
from ragray.config_cache import CacheConfig
from ragray.config_loading import validate_section
from ragray.errors import ConfigError


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@host:6379/0", "rediss://hunter2@host/0", "redis://host/0?password=hunter2"]
)
def test_a_url_with_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="RAGRAY_REDIS_PASSWORD") as refused:
        validate_section(ServeConfig, {"cache": {"redis_url": url}}, "serve")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://host", "host:6379", "redis:///0"])
def test_a_url_of_something_else_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="redis://HOST:PORT/DB"):
        CacheConfig(redis_url=url)


def test_redis_urls_are_taken_as_they_are() -> None:
    for url in ("redis://host:6379/0", "rediss://host"):
        assert CacheConfig(redis_url=url).redis_url == url


@pytest.mark.parametrize(
    "wrong", [{"exact_mib": -1}, {"ttl_s": 0}, {"false_hit_budget": 0.0}, {"false_hit_budget": 0.5}, {"store": "disk"}]
)
def test_limits_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CacheConfig.model_validate(wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"store": "redis"}, "needs serve.cache.redis_url"),
        ({"store": "process", "redis_url": "redis://host"}, "not used with serve.cache.store: process"),
        ({"store": "actor", "redis_url": "redis://host"}, "not used with serve.cache.store: actor"),
        ({"store": "actor", "exact_mib": 0}, "keeps no answers"),
        ({"store": "redis", "redis_url": "redis://host", "exact_mib": 0}, "keeps no answers"),
        ({"redis_url": "redis://host", "exact_mib": 0}, "keeps no answers"),
    ],
)
def test_what_would_have_no_effect_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CacheConfig.model_validate(wrong)


def test_the_former_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="answer_cache_entries"):
        ServeConfig.model_validate({"answer_cache_entries": 5})
