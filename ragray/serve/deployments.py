"""The parts of the served application as Serve's deployments, each scaled and placed by itself.

In: what is served, and the settings. Out: an application of one to three deployments, wired by handles. By default the
ingress holds the retriever in process, as a call to another replica costs more CPU than a search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ragray.config import EngineConfig, ServeConfig
from ragray.config_limits import MOST_OPEN_REQUESTS
from ragray.config_replicas import AutoscaleConfig, Part, PlacementConfig
from ragray.serve.artifacts import Served

if TYPE_CHECKING:
    from ray.serve import Application, Deployment

_SEARCHES_PER_RETRIEVER, _WAITING_SEARCHES = 64, 256
_CPUS: dict[Part, float] = {"ingress": 0.0, "retriever": 0.0, "generator": 1.0}  # searches share the cores of a node


def application(served: Served, model: str, settings: ServeConfig, engine: EngineConfig) -> Application:
    """The parts that `served` has as deployments, wired by handles.

    Raises:
        ConfigError: the file of API keys cannot be used.
    """
    from ray import serve

    from ragray.serve.exposure import with_keys_checked
    from ragray.serve.feedback import with_absolute_folder
    from ragray.serve.ingress import Ingress

    settings = with_keys_checked(with_absolute_folder(settings))
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
    from ragray.serve.retriever import BatchedRetriever, RetrieverReplica

    of_artifacts = served.index, served.confidence, served.follows
    batch, wait_s = settings.retriever_batch_size, settings.retriever_batch_wait_ms / 1e3
    limits = {"open_requests": max(_SEARCHES_PER_RETRIEVER, 2 * batch), "queued": _WAITING_SEARCHES}
    if batch == 1:
        return _deployed(RetrieverReplica, "retriever", settings, **limits).bind(*of_artifacts)
    return _deployed(BatchedRetriever, "retriever", settings, **limits).bind(*of_artifacts, batch, wait_s)


def _generator(served: Served, settings: ServeConfig, engine: EngineConfig) -> Application:
    from ragray.serve.generator import WAITING_BATCHES, GeneratorReplica

    most = engine.max_batch_size
    part = _deployed(GeneratorReplica, "generator", settings, open_requests=most, queued=WAITING_BATCHES * most)
    return part.bind(served.engine, engine, settings.stream_every_ms / 1e3)


def _deployed(
    part: Callable[..., Any], name: Part, settings: ServeConfig, open_requests: int, queued: int = -1
) -> Deployment:
    """A part as a deployment.

    Args:
        part: the class of its replicas.
        name: which of the three.
        settings: copies and placement.
        open_requests: at one replica at once.
        queued: at one caller before it refuses; -1: without limit.
    """
    from ray import serve

    placement: PlacementConfig = getattr(settings.placement, name)
    replicas: int = getattr(settings, f"{name}_replicas")
    scale = placement.autoscaling
    return serve.deployment(
        name=name.capitalize(),
        num_replicas=replicas if scale is None else None,
        autoscaling_config=None if scale is None else _autoscaling(scale, replicas),
        max_ongoing_requests=open_requests,
        max_queued_requests=queued,
        ray_actor_options=_actor_options(name, placement, settings),
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.drain_s,
        logging_config={"encoding": "JSON", "enable_access_log": False},  # `serve.logs` writes a request's line
    )(part)


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
