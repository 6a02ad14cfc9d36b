"""The caches of one ingress replica, as its settings and artifacts say.

In: settings, the served artifacts, how many replicas there are. Out: caches of answers and of retrieval results,
counted in the replica's metrics as `ragray_cache_lookups`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ragray.config_cache import CacheConfig
from ragray.retrieval.agreement import READING_VERSION
from ragray.retrieval.false_hits import FalseHits
from ragray.serve.answers import MIB, AnswerCache, Caches, KeptRetrievals
from ragray.serve.artifacts import open_artifact
from ragray.serve.cache import digest
from ragray.serve.cache_store import Store
from ragray.serve.metrics import serving_metrics

if TYPE_CHECKING:
    from ragray.serve.artifacts import Served

logger = logging.getLogger("ray.serve")


def open_caches(settings: CacheConfig, served: Served, replicas: int) -> Caches:
    """The caches of answers and of retrieval results.

    Args:
        settings: sizes, ages, and where answers are shared.
        served: what answers; its calibration says from which similarity on near questions share an answer.
        replicas: of the ingress.

    Raises:
        ArtifactError: the calibration is damaged.
        ConfigError: Redis is asked for without its package.
    """
    count = serving_metrics().looked
    shared = shared_store(settings, served, replicas)
    answers = AnswerCache(settings, thresholds(settings, served.confidence), shared, count)
    return Caches(answers, KeptRetrievals(settings, count))


def thresholds(settings: CacheConfig, confidence_uri: str | None) -> dict[str, float]:
    """From which similarity on, by language, a near question's answer is given; empty where that is not shown."""
    if not settings.semantic or settings.exact_mib == 0 or confidence_uri is None:
        return {}
    false_hits = FalseHits.open(open_artifact(confidence_uri, "calibrate").folder)
    found = {} if false_hits is None else false_hits.thresholds(settings.false_hit_budget)
    if false_hits is not None and false_hits.reading != READING_VERSION:
        logger.info("the semantic cache is off: another version of ragray calibrated it; `ragray run` does it again")
    elif not found:
        logger.info(
            "the semantic cache is off: calibrate had too few questions to show a false-hit rate of at most %g",
            settings.false_hit_budget,
        )
    return found


def shared_store(settings: CacheConfig, served: Served, replicas: int) -> Store | None:
    """What replicas share their answers in; None: nothing.

    Raises:
        ConfigError: Redis is asked for without its package.
    """
    if settings.exact_mib == 0:
        return None
    if settings.redis_url is not None:
        from ragray.serve.cache_redis import RedisStore

        return RedisStore(settings.redis_url, settings.ttl_s)
    if settings.store == "actor" or (settings.store == "auto" and replicas > 1):
        from ragray.serve.cache_actor import ActorStore

        of = {name: value for name, value in served.lineage.items() if name != "index" or not served.follows}
        name = f"ragray-cache-{digest(of)[:16]}"
        store = ActorStore(name, int(settings.exact_mib * MIB), settings.ttl_s)
        store.start()
        return store
    return None
