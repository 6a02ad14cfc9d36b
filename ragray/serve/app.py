"""The served application: from typed arguments to a running service.

In: the `args` of a Serve file (`serve run serve_configs/local.yaml`) or a `RunConfig` (`ragray serve`).
Out: a running API and page. Artifacts are checked before any replica starts.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ragray.config import EngineConfig, RunConfig, ServeConfig
from ragray.config_data import ModelId, Section
from ragray.config_loading import load_config, validate_section
from ragray.errors import ConfigError, WorkError
from ragray.serve import throughput
from ragray.serve.artifacts import Parts, Served, open_artifact, open_index, open_store
from ragray.serve.deployments import application
from ragray.serve.exposure import check_exposure

if TYPE_CHECKING:
    from ray.serve import Application

APP_NAME = "ragray"
_NEEDED: dict[Parts, tuple[str, ...]] = {
    "full": ("index", "confidence", "engine"),
    "retrieval": ("index",),
    "generation": ("engine",),
}
_STAGES = {"index": "index", "confidence": "calibrate", "engine": "engine"}


class ArtifactArgs(Section):
    """Artifact folders, each `<store>/<stage>/<name>`, also s3:// or gs://."""

    index: str | None = Field(None, description="folder of the index stage, or of a changing index, which is followed")
    confidence: str | None = Field(None, description="folder of the calibrate stage; with index and engine alone")
    engine: str | None = Field(None, description="folder of the engine stage")
    adapters: dict[ModelId, str] = Field({}, description="further models by id: folders of the train stage")


class AppArgs(Section):
    """What `ragray.serve.app:build` takes: a run's configuration, or the artifacts themselves."""

    config: str | None = Field(None, description="a run's YAML; its finished artifacts are served")
    set: tuple[str, ...] = Field((), description="a.b=c overrides of that configuration")
    artifacts: ArtifactArgs | None = Field(None, description="the artifacts to serve, instead of config")
    parts: Parts = Field("full", description="retrieval: searches alone; generation: answers without an index")
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
        if self.artifacts is not None and self.serve is not None and self.serve.adapters:
            raise ValueError("args.serve.adapters: name them as artifacts.adapters")
        if self.artifacts is not None:
            self._check_artifacts(self.artifacts)
        return self

    def _check_artifacts(self, artifacts: ArtifactArgs) -> None:
        given = {name for name, uri in artifacts.model_dump(exclude={"adapters"}).items() if uri is not None}
        needed = set(_NEEDED[self.parts])
        if missing := sorted(needed - given):
            raise ValueError(f"args.artifacts: parts: {self.parts} needs {', '.join(missing)}, too")
        if unused := sorted(given - needed):
            raise ValueError(f"args.artifacts: parts: {self.parts} does not use {', '.join(unused)}; leave it out")
        if artifacts.adapters and "engine" not in needed:
            raise ValueError(f"args.artifacts: parts: {self.parts} does not use adapters; leave them out")


def build(args: AppArgs | Mapping[str, Any]) -> Application:
    """The Serve application for `args`; what `import_path: ragray.serve.app:build` names.

    Raises:
        ConfigError: unknown keys or wrong values, all named at once.
        ArtifactError: an artifact is missing, or two do not belong together.
    """
    typed = args if isinstance(args, AppArgs) else validate_section(AppArgs, args, "args")
    if typed.artifacts is not None:
        served = _opened(typed.artifacts)
        return application(served, typed.model, typed.serve or ServeConfig(), typed.engine or EngineConfig())
    if typed.config is None:
        raise ConfigError("args: neither config nor artifacts", "name a run's YAML as config")
    config = load_config(typed.config, typed.set)
    settings = typed.serve or config.serve
    served = served_by(config, settings.index_store, typed.parts, settings.adapters)
    return application(served, typed.model, settings, typed.engine or config.engine)


def _opened(artifacts: ArtifactArgs) -> Served:
    return Served.of(
        None if artifacts.index is None else open_index(artifacts.index),
        None if artifacts.confidence is None else open_artifact(artifacts.confidence, "calibrate"),
        None if artifacts.engine is None else open_artifact(artifacts.engine, "engine"),
        artifacts.adapters,
    )


def served_by(
    config: RunConfig, index_store: str | None, parts: Parts = "full", adapters: Mapping[str, str] | None = None
) -> Served:
    """The finished artifacts of a run that serving needs, with a changing index in place of the run's if one is named.

    Raises:
        ArtifactError: one is not finished, or out of date; the store was not made of the run's index; an adapter does
            not fit the engine.
        EngineError: the engine takes no adapters.
        ConfigError: a store is named for an application without an index, adapters for one without an engine.
    """
    from ragray.distributed.pipeline import finished

    if index_store is not None and parts == "generation":
        raise ConfigError("serve.index_store: parts: generation has no index", "leave serve.index_store out")
    if adapters and parts == "retrieval":
        raise ConfigError("serve.adapters: parts: retrieval has no engine", "leave serve.adapters out")
    found = finished(config, *(_STAGES[name] for name in _NEEDED[parts]))
    index = found.get("index") if index_store is None else open_store(index_store)
    return Served.of(index, found.get("calibrate"), found.get("engine"), adapters or {})


def serve_app(config: RunConfig, block: bool = True, report: Callable[[str], None] | None = None) -> None:
    """Serve a run's finished artifacts; with `block`, until Ctrl-C or SIGTERM, then shut down in order.

    Args:
        config: the run; `serve.host` and `serve.port` say where to listen.
        block: False returns once the API answers, and leaves it running.
        report: shows one line; by default printed.

    Raises:
        ArtifactError: an artifact is missing or out of date.
        ConfigError: it would listen beyond loopback without keys.
        WorkError: the port is in use, or a replica cannot start.
        KeyboardInterrupt: it was stopped, by Ctrl-C or SIGTERM.
    """
    settings = config.serve
    check_exposure(settings.host, settings.limits)
    served = served_by(config, settings.index_store, adapters=settings.adapters)
    serve_parts(served, config.name, settings, config.engine, block, report)


def serve_parts(
    served: Served,
    model: str,
    settings: ServeConfig,
    engine: EngineConfig,
    block: bool = True,
    report: Callable[[str], None] | None = None,
) -> None:
    """The same for opened artifacts; `model` is the id in /v1/models.

    A Ray that this starts gets Serve's throughput settings, unless `fast_http` is off; it has ended when this returns
    or raises, except without `block`.
    """
    import ray

    check_exposure(settings.host, settings.limits)
    check_port(settings.host, settings.port)
    is_own = not ray.is_initialized() and "RAY_ADDRESS" not in os.environ
    undo = throughput.apply(settings.limits.body_timeout_s) if settings.fast_http and is_own else None
    try:
        _serve(application(served, model, settings, engine), settings, block, report or print_line)
    except BaseException:
        if undo is not None:
            undo()
        raise


def _serve(app: Application, settings: ServeConfig, block: bool, show: Callable[[str], None]) -> None:
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    from ragray.distributed.session import connect
    from ragray.serve.running import noted

    joined = ray.is_initialized()
    connect()
    if block:
        signal.signal(signal.SIGTERM, _interrupt)  # after connect: Ray sets a handler of its own
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its progress lines; replicas keep their own logs
    host, port = settings.host, settings.port
    try:
        serve.start(http_options=HTTPOptions(host=host, port=port), logging_config={"enable_access_log": False})
        _run(app)
        with noted(port, ray.get_runtime_context().gcs_address):
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


def print_line(line: str) -> None:
    """Show one line."""
    from rich.console import Console

    Console().print(line, markup=False, soft_wrap=True)
