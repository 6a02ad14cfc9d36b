"""The served application: from typed arguments to three deployments.

In: the `args` of a Serve file (`serve run serve_configs/local.yaml`) or a `RunConfig` (`ragray serve`).
Out: a running API and page. Artifacts are checked before any replica starts.
"""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ragray.config import EngineConfig, RunConfig, ServeConfig
from ragray.config_data import Section
from ragray.config_loading import load_config, validate_section
from ragray.errors import ConfigError, WorkError
from ragray.serve.artifacts import Served, open_artifact, open_index, open_store

if TYPE_CHECKING:
    from ray.serve import Application

APP_NAME = "ragray"
_REQUESTS_PER_INGRESS = 1000  # open at once; streams wait for the engine most of the time


class ArtifactArgs(Section):
    """Artifact folders, each `<store>/<stage>/<name>`, also s3:// or gs://."""

    index: str = Field(description="folder of the index stage, or of a changing index, which is followed")
    confidence: str = Field(description="folder of the calibrate stage")
    engine: str = Field(description="folder of the engine stage")


class AppArgs(Section):
    """What `ragray.serve.app:build` takes: a run's configuration, or the artifacts themselves."""

    config: str | None = Field(None, description="a run's YAML; its finished artifacts are served")
    set: tuple[str, ...] = Field((), description="a.b=c overrides of that configuration")
    artifacts: ArtifactArgs | None = Field(None, description="the artifacts to serve, instead of config")
    model: str = Field("ragray", description="the model's id in the API")
    serve: ServeConfig | None = Field(None, description="by default that of config")
    engine: EngineConfig | None = Field(None, description="by default that of config")

    @model_validator(mode="after")
    def _check_choice(self) -> AppArgs:
        if (self.config is None) == (self.artifacts is None):
            raise ValueError("args: give either config (a run's YAML) or artifacts (index, confidence, engine)")
        if self.set and self.config is None:
            raise ValueError("args.set: overrides config, which is not given")
        if self.serve is not None and self.serve.model_fields_set & {"host", "port"}:
            raise ValueError("args.serve: host and port belong into http_options of the Serve file")
        if self.artifacts is not None and self.serve is not None and self.serve.index_store is not None:
            raise ValueError("args.serve.index_store: name the store as artifacts.index")
        return self


def build(args: AppArgs | Mapping[str, Any]) -> Application:
    """The Serve application for `args`; what `import_path: ragray.serve.app:build` names.

    Raises:
        ConfigError: unknown keys or wrong values, all named at once.
        ArtifactError: an artifact is missing, or two do not belong together.
    """
    typed = args if isinstance(args, AppArgs) else validate_section(AppArgs, args, "args")
    if typed.artifacts is not None:
        served = Served.of(
            open_index(typed.artifacts.index),
            open_artifact(typed.artifacts.confidence, "calibrate"),
            open_artifact(typed.artifacts.engine, "engine"),
        )
        return application(served, typed.model, typed.serve or ServeConfig(), typed.engine or EngineConfig())
    if typed.config is None:
        raise ConfigError("args: neither config nor artifacts", "name a run's YAML as config")
    config = load_config(typed.config, typed.set)
    settings = typed.serve or config.serve
    served = served_by(config, settings.index_store)
    return application(served, typed.model, settings, typed.engine or config.engine)


def served_by(config: RunConfig, index_store: str | None) -> Served:
    """The finished artifacts of a run that serving needs, with a changing index in place of the run's if one is named.

    Raises:
        ArtifactError: one is not finished, or out of date; the store was not made of the run's index.
    """
    from ragray.distributed.pipeline import finished

    found = finished(config, "index", "calibrate", "engine")
    index = found["index"] if index_store is None else open_store(index_store)
    return Served.of(index, found["calibrate"], found["engine"])


def application(served: Served, model: str, settings: ServeConfig, engine: EngineConfig) -> Application:
    """Retriever, generator and ingress as three deployments, wired by handles."""
    from ray import serve

    from ragray.serve.generator import GeneratorReplica
    from ragray.serve.ingress import Ingress
    from ragray.serve.retriever import RetrieverReplica

    retriever = serve.deployment(
        name="Retriever",
        num_replicas=settings.retriever_replicas,
        max_ongoing_requests=64,
        max_queued_requests=256,
        ray_actor_options={"num_cpus": 0},  # the Serve replicas share the cores of a node
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.5,
    )(RetrieverReplica)
    generator = serve.deployment(
        name="Generator",
        num_replicas=settings.generator_replicas,
        max_ongoing_requests=engine.max_batch_size,
        max_queued_requests=4 * engine.max_batch_size,
        ray_actor_options={"num_cpus": 1, "num_gpus": settings.generator_gpus},
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.5,
    )(GeneratorReplica)
    ingress = serve.deployment(
        name="Ingress",
        max_ongoing_requests=_REQUESTS_PER_INGRESS,
        ray_actor_options={"num_cpus": 0},
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.5,
    )(serve.ingress()(Ingress))
    return ingress.bind(
        retriever.bind(served.index, served.confidence, served.follows),
        generator.bind(served.engine, engine),
        model,
        served,
        settings,
    )


def serve_app(config: RunConfig, block: bool = True, report: Callable[[str], None] | None = None) -> None:
    """Serve a run's finished artifacts; with `block`, until Ctrl-C or SIGTERM, then shut down in order.

    Args:
        config: the run; `serve.host` and `serve.port` say where to listen.
        block: False returns once the API answers, and leaves it running.
        report: shows one line; by default printed.

    Raises:
        ArtifactError: an artifact is missing or out of date.
        WorkError: the port is in use, or a replica cannot start.
        KeyboardInterrupt: it was stopped, by Ctrl-C or SIGTERM.
    """
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    from ragray.distributed.session import connect

    show = report or _print
    host, port = config.serve.host, config.serve.port
    app = application(served_by(config, config.serve.index_store), config.name, config.serve, config.engine)
    check_port(host, port)
    joined = ray.is_initialized()
    connect()
    if block:
        signal.signal(signal.SIGTERM, _interrupt)  # after connect: Ray sets a handler of its own
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its progress lines; replicas keep their own logs
    try:
        serve.start(http_options=HTTPOptions(host=host, port=port))
        _run(app)
        show(f"ragray answers on http://{_shown(host)}:{port}  (page at /, API at /v1; Ctrl-C stops)")
        while block:
            time.sleep(3600)
    except BaseException:
        _stop()
        if not joined:
            ray.shutdown()
        raise


def check_port(host: str, port: int) -> None:
    """Do nothing when `host:port` can be listened on.

    Raises:
        WorkError: another program listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            free = port + 1 if port < 65535 else port - 1
            raise WorkError(
                f"{host}:{port}: cannot listen there: {error.strerror}",
                f"stop the program that uses the port, or add `--set serve.port={free}`",
            ) from None


def _run(app: Application) -> None:
    from ray import serve

    try:
        serve.run(app, name=APP_NAME, route_prefix="/")
    except RuntimeError as error:
        raise WorkError(f"the application did not start: {error}", "correct what the last lines above name") from None


def _stop() -> None:
    """Take the application down, and Serve with it unless it has other applications."""
    from ray import serve

    if set(serve.status().applications) - {APP_NAME}:
        serve.delete(APP_NAME)
    else:
        serve.shutdown()  # type: ignore[no-untyped-call]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _print(line: str) -> None:
    from rich.console import Console

    Console().print(line)
