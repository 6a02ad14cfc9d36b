"""The parts of the served application as Serve's deployments, each scaled and placed by itself.

In: what is served, and the settings. Out: an application of one to three deployments, wired by handles. By default the
ingress holds the retriever in process, as a call to another replica costs more CPU than a search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ragray.config import EngineConfig, ServeConfig
from ragray.config_limits import MOST_OPEN_REQUESTS
from ragray.config_replicas import AutoscaleConfig, Part, PlacementConfig
from ragray.errors import ConfigError
from ragray.serve.artifacts import Served
from ragray.serve.traces import joining

if TYPE_CHECKING:
    from ray.serve import Application, Deployment

_SEARCHES_PER_RETRIEVER, _WAITING_SEARCHES = 64, 256
_LOOK_EVERY_S = 2.0  # whether a replica was lost: requests wait for a new one where it was the only one; 10 in Serve
# searches share the cores of a node
_CPUS: dict[Part, float] = {"ingress": 0.0, "retriever": 0.0, "shard": 0.0, "generator": 1.0}


def application(served: Served, model: str, settings: ServeConfig, engine: EngineConfig) -> Application:
    """The parts that `served` has as deployments, wired by handles.

    Raises:
        ConfigError: the file of API keys cannot be used, or two models have one id.
    """
    from ray import serve

    from ragray.serve.adapters import check_ids
    from ragray.serve.exposure import with_keys_checked
    from ragray.serve.feedback import with_absolute_folder
    from ragray.serve.ingress import Ingress

    check_ids(model, served.adapters)
    settings = with_keys_checked(with_absolute_folder(settings))
    if served.engine is None:  # else the ingress would reserve for an engine that it does not hold
        settings = settings.model_copy(update={"generator": "deployment"})
    ingress = _deployed(serve.ingress()(Ingress), "ingress", settings, MOST_OPEN_REQUESTS, MOST_OPEN_REQUESTS)
    searches_apart = settings.retriever == "deployment" and served.index is not None
    writes_apart = settings.generator == "deployment" and served.engine is not None
    return ingress.bind(
        _retriever(served, settings) if searches_apart else None,
        _generator(served, settings, engine) if writes_apart else None,
        model,
        served,
        settings,
        engine,
    )


def _retriever(served: Served, settings: ServeConfig) -> Application:
    from ragray.serve.replicas import RetrieverReplica
    from ragray.serve.retriever import Batches

    if settings.retriever_shards > 1:
        return _sharded(served, settings)
    size = settings.retriever_batch_size
    batches = None if size == 1 else Batches(size, settings.retriever_batch_wait_ms / 1e3)
    limits = max(_SEARCHES_PER_RETRIEVER, 2 * size), _WAITING_SEARCHES
    return _deployed(RetrieverReplica, "retriever", settings, *limits).bind(served, batches)


def _sharded(served: Served, settings: ServeConfig) -> Application:
    """A retriever over deployments that each hold a part of the index.

    Raises:
        ConfigError: the index changes, has embeddings or too few segments.
    """
    from ragray.serve.sharded import ShardedRetrieverReplica, ShardReplica, groups_of

    assert served.index is not None
    if served.follows:
        raise ConfigError(
            f"{served.index}: an index that changes is not searched in shards",
            "name an artifact of the stage index, or set serve.retriever_shards to 1",
        )
    limits = _SEARCHES_PER_RETRIEVER, _WAITING_SEARCHES
    shards = [
        _deployed(ShardReplica, "shard", settings, *limits, title=f"Shard{place}").bind(served.index, group)
        for place, group in enumerate(groups_of(served.index, settings.retriever_shards), 1)
    ]
    part = _deployed(ShardedRetrieverReplica, "retriever", settings, *limits)
    return part.bind(served, settings.shard_timeout_s, *shards)


def _generator(served: Served, settings: ServeConfig, engine: EngineConfig) -> Application:
    from ragray.serve.generator import WAITING_BATCHES
    from ragray.serve.replicas import GeneratorReplica

    most = engine.max_batch_size
    part = _deployed(GeneratorReplica, "generator", settings, open_requests=most, queued=WAITING_BATCHES * most)
    return part.bind(served, engine, settings.stream_every_ms / 1e3)


def _deployed(
    part: type, name: Part, settings: ServeConfig, open_requests: int, queued: int = -1, *, title: str = ""
) -> Deployment:
    """A part as a deployment.

    Args:
        part: the class of its replicas.
        name: which of them.
        settings: copies and placement.
        open_requests: at one replica at once.
        queued: at one caller before it refuses; -1: without limit.
        title: of the deployment, where a part has several.
    """
    from ray import serve

    placement: PlacementConfig = getattr(settings.placement, name)
    replicas: int = getattr(settings, f"{name}_replicas")
    scale = placement.autoscaling
    return serve.deployment(
        name=title or name.capitalize(),
        num_replicas=replicas if scale is None else None,
        autoscaling_config=None if scale is None else _autoscaling(scale, replicas),
        max_ongoing_requests=open_requests,
        max_queued_requests=queued,
        ray_actor_options=_actor_options(name, placement, settings),
        max_constructor_retry_count=2,
        health_check_period_s=_LOOK_EVERY_S,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.drain_s,
        logging_config={"encoding": "JSON", "enable_access_log": False},  # `serve.logs` writes a request's line
    )(part if name in ("ingress", "shard") else joining(part, name.capitalize(), settings.traces))


def _actor_options(name: Part, placement: PlacementConfig, settings: ServeConfig) -> dict[str, Any]:
    writes = name == "generator" or (name == "ingress" and settings.generator == "ingress")
    cpus = (_CPUS["generator"] if writes else _CPUS[name]) if placement.num_cpus is None else placement.num_cpus
    options: dict[str, Any] = {"num_cpus": cpus}
    if writes:
        options["num_gpus"] = settings.generator_gpus
    if placement.resources:
        options["resources"] = placement.resources
    if placement.accelerator_type is not None:
        options["accelerator_type"] = placement.accelerator_type
    return options


def _autoscaling(scale: AutoscaleConfig, replicas: int) -> dict[str, Any]:
    return {
        "min_replicas": scale.min_replicas,
        "initial_replicas": replicas,
        "max_replicas": scale.max_replicas,
        "target_ongoing_requests": scale.target_ongoing_requests,
        "look_back_period_s": scale.look_back_s,
        "upscale_delay_s": scale.upscale_delay_s,
        "downscale_delay_s": scale.downscale_delay_s,
    }
