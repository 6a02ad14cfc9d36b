"""Joining Ray: the cluster that the environment names, or a local one on this machine.

In: the environment (`RAY_ADDRESS`, or a submitted job's own). Out: a connected driver.
"""

from __future__ import annotations

import logging
import os

from ragray.errors import WorkError


def living_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster that is alive, by Ray's names."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def join(address: str | None = None) -> None:
    """Connect this process to a Ray that runs; nothing is started.

    Args:
        address: of its GCS; None: `RAY_ADDRESS` names it.

    Raises:
        WorkError: it does not answer.
    """
    import ray

    try:
        ray.init(address=address or os.environ.get("RAY_ADDRESS"), logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        said = str(error).partition("\n")[0]
        raise WorkError(
            f"the Ray at {address or os.environ.get('RAY_ADDRESS')} cannot be joined: {said}",
            "check that it runs, RAY_ADDRESS, and the cluster's token",
        ) from error


def connect() -> None:
    """Connect this process to Ray once; start a local Ray where no cluster is named.

    A local Ray has no dashboard and keeps worker output out of the terminal. Its own ports (GCS, raylet,
    workers) listen on all interfaces, guarded by Ray's token authentication; only HTTP is kept to loopback.

    Raises:
        WorkError: the cluster does not answer, or the local Ray did not start in time.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    cluster = os.environ.get("RAY_ADDRESS")
    try:
        if cluster:
            ray.init(logging_level=logging.ERROR)
        else:
            ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # a start that times out is a bare Exception in Ray 2.60
        what = f"the Ray cluster {cluster} cannot be joined" if cluster else "a local Ray could not be started"
        fix = (
            "check RAY_ADDRESS and the cluster's token" if cluster else "free memory and processors, then run it again"
        )
        said = str(error).partition("\n")[0]
        raise WorkError(f"{what}: {said}", fix) from error
