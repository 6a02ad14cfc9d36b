"""`ragray serve --swap`: have a running application answer from other artifacts.

In: a run's configuration. Out: the application's release, once all replicas answer from it. All that loads and switches
is the replicas' work, see `releases` and `follower`; here it is asked for, watched and, when interrupted, undone.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from ragray.errors import ConfigError, WorkError
from ragray.serve.app import APP_NAME, served_by
from ragray.serve.releases import NAME, NAMESPACE, Progress, Release
from ragray.serve.running import join_service

if TYPE_CHECKING:
    from ragray.config import RunConfig
    from ragray.serve.artifacts import Parts, Served

_EVERY_S = 0.25
_SWITCH_S = 60.0  # replicas switch within a second; one that hangs is named after so long
_CALL_S = 15.0
Show = Callable[[str], None]


def swap_app(config: RunConfig, application: str | None, show: Show) -> Release:
    """Have a running application answer from a run's finished artifacts.

    Args:
        config: the run; `serve.port` says which service, unless RAY_ADDRESS names a cluster.
        application: its name in Serve; None: "ragray", or the only one.
        show: gets each line of progress.

    Raises:
        ArtifactError: an artifact is missing, or two do not belong together.
        ConfigError: there are several applications.
        WorkError: no application runs, a swap is running, or a replica cannot load the artifacts.
        KeyboardInterrupt: it was stopped; the former release answers on.
    """
    if os.environ.get("RAY_ADDRESS"):
        from ragray.distributed.session import join

        join()
    else:
        join_service(config.serve.port)  # imports ray when it knows how it authenticates
    import ray

    signal.signal(signal.SIGTERM, _interrupt)  # after joining: Ray sets a handler of its own
    try:

        def opened(parts: Parts) -> Served:
            return served_by(config, config.serve.index_store, parts, config.serve.adapters)

        return swap(opened, application, config.serve.swap_timeout_s, show)
    finally:
        ray.shutdown()


def swap(opened: Callable[[Parts], Served], application: str | None, timeout_s: float, show: Show) -> Release:
    """The same on the Ray that this process is connected to.

    Args:
        opened: opens the artifacts for the parts that the application has.
        application: see `swap_app`.
        timeout_s: how long the replicas may take to load them.
        show: gets each line of progress.

    Raises:
        ConfigError, WorkError, KeyboardInterrupt: see `swap_app`.
    """
    actor = _actor_of(application)
    former: Release = _asked(actor.current.remote())
    served = opened(former.served.parts)
    if _is_same(served, former.served):
        show(f"release {former.number} answers from these artifacts already: {_told(former.served)}")
        return former
    number = _asked(actor.begin.remote(served, timeout_s))
    if isinstance(number, str):
        raise WorkError(f"not swapped: {number}", "wait for it and try again, or look at `serve status`")
    release = Release(number, served)
    try:
        _watch(actor, release, former, show)
    except KeyboardInterrupt:
        undone = _asked(actor.abort.remote(number))
        show(f"release {former.number} answers on" if undone else f"too late: release {number} answers")
        raise
    show(f"release {number} answers: {_told(served)}")
    return release


def _watch(actor: Any, release: Release, former: Release, show: Show) -> None:
    said = ""
    switching_since: float | None = None
    while True:
        progress: Progress | None = _asked(actor.progress.remote(release.number))
        if progress is None:
            raise WorkError(
                f"the record of releases was lost; release {former.number} answers on", "run the command again"
            )
        if progress.state == "served":
            return
        if progress.state == "failed":
            raise WorkError(
                f"not swapped, release {former.number} answers on: {progress.reason}", progress.fix or "run it again"
            )
        if progress.state == "switching":
            switching_since = switching_since or time.monotonic()
            if time.monotonic() - switching_since > _SWITCH_S:
                show(f"still on the former release: {', '.join(progress.waits_for)}")
                return
        if (line := _line(release, progress)) != said:
            show(said := line)
        time.sleep(_EVERY_S)


def _line(release: Release, progress: Progress) -> str:
    what = "loaded by" if progress.state == "loading" else "answers in"
    total = len(progress.has) + len(progress.waits_for)
    waits = f"; waiting for {', '.join(sorted(progress.waits_for))}" if progress.waits_for else ""
    return f"release {release.number}: {what} {len(progress.has)} of {total} replicas{waits}"


def _actor_of(application: str | None) -> Any:
    """The record of releases of a running application.

    Raises:
        ConfigError: there are several applications.
        WorkError: there is none, or it is being deployed.
    """
    import ray

    named = cast("list[dict[str, str]]", ray.util.list_named_actors(all_namespaces=True))
    found: dict[str, list[Any]] = {}
    for one in named:
        name = one["name"]
        if one["namespace"] == NAMESPACE and name.startswith(NAME):
            actor: Any = ray.get_actor(name, namespace=NAMESPACE)
            if _asked(actor.living.remote()):
                found.setdefault(name.removeprefix(NAME).rpartition(" ")[0], []).append(actor)
    if application is None and APP_NAME not in found and len(found) > 1:
        raise ConfigError(f"several applications run: {', '.join(sorted(found))}", "name one by --app")
    chosen = application or (APP_NAME if APP_NAME in found or not found else next(iter(found)))
    actors = found.get(chosen, [])
    if not actors:
        others = f"; there are: {', '.join(sorted(found))}" if found else ""
        raise WorkError(f"no application {chosen!r} of ragray runs on this Ray{others}", "start it: `ragray serve`")
    if len(actors) > 1:
        raise WorkError(f"{chosen} is being deployed anew", "wait for its end: `serve status`")
    return actors[0]


def _is_same(served: Served, other: Served) -> bool:
    return (served.of_retriever, served.of_generator) == (other.of_retriever, other.of_generator)


def _told(served: Served) -> str:
    return ", ".join(f"{name} {digest[:12]}" for name, digest in served.lineage.items())


def _asked(reference: Any) -> Any:
    import ray
    from ray.exceptions import RayError

    try:
        answer: Any = ray.get(reference, timeout=_CALL_S)
        return answer
    except RayError as error:
        raise WorkError(
            f"the record of releases does not answer: {type(error).__name__}",
            "run the command again: it says what is served, or swaps",
        ) from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
