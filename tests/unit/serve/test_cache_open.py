"""Which caches a replica opens: thresholds by its calibration, shared ones by its settings."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ragray.artifact import Artifact, Store
from ragray.config_cache import CacheConfig
from ragray.retrieval import false_hits
from ragray.retrieval.false_hits import LEAST, FalseHits, Scores
from ragray.serve import cache_open
from ragray.serve.artifacts import Served
from ragray.serve.cache_open import shared_store, thresholds


def calibrated(store: Path, questions: int) -> Artifact:
    with Store(str(store)).draft(
        "calibrate", f"{questions}".ljust(64, "0"), format_version=1, inputs={}, config={}, code=""
    ) as draft:
        if questions:
            FalseHits({"en": Scores((0.2,) * questions, ())}).write(draft.folder)
    assert draft.result is not None
    return draft.result


def served(follows: bool = False) -> Served:
    return Served("index", follows, "confidence", "engine", {"index": "i", "engine": "e"}, 0)


def test_near_questions_share_answers_where_the_budget_is_shown(tmp_path: Path) -> None:
    uri = calibrated(tmp_path, 299).uri
    assert thresholds(CacheConfig(), uri) == {"en": LEAST["en"]}
    assert thresholds(CacheConfig(false_hit_budget=0.005), uri) == {}
    assert thresholds(CacheConfig(semantic=False), uri) == {}
    assert thresholds(CacheConfig(exact_mib=0), uri) == {}


@pytest.mark.parametrize("questions", [0, 298])
def test_where_it_is_not_shown_the_log_says_so(
    tmp_path: Path, questions: int, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "ray.serve")
    try:
        assert thresholds(CacheConfig(), calibrated(tmp_path, questions).uri) == {}
    finally:
        logger.removeHandler(caplog.handler)
    assert "the semantic cache is off" in caplog.text


def test_a_calibration_by_another_reading_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = calibrated(tmp_path, 299).uri
    for module in (cache_open, false_hits):
        monkeypatch.setattr(module, "READING_VERSION", 99)
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "ray.serve")
    try:
        assert thresholds(CacheConfig(), uri) == {}
    finally:
        logger.removeHandler(caplog.handler)
    assert "another version of ragray calibrated it" in caplog.text


def test_one_replica_shares_with_nobody_unless_it_is_told_to() -> None:
    assert shared_store(CacheConfig(), served(), replicas=1) is None
    assert shared_store(CacheConfig(store="process"), served(), replicas=3) is None
    assert shared_store(CacheConfig(exact_mib=0), served(), replicas=3) is None


def test_a_url_is_enough_for_redis() -> None:
    pytest.importorskip("redis", reason="the package redis is not installed: pip install 'ragray[redis]'")
    from ragray.serve.cache_redis import RedisStore

    url = "redis://127.0.0.1:1/0"
    assert isinstance(shared_store(CacheConfig(redis_url=url), served(), replicas=1), RedisStore)
    assert isinstance(shared_store(CacheConfig(redis_url=url, store="redis"), served(), replicas=1), RedisStore)
