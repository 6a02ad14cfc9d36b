"""Joining Ray: the cluster that the environment names, or a local one on this machine.

In: the environment (`RAY_ADDRESS`, or a submitted job's own). Out: a connected driver.
"""

from __future__ import annotations

import logging
import os


def connect() -> None:
    """Connect this process to Ray once; start a local Ray where no cluster is named.

    A local Ray has no dashboard, keeps worker output out of the terminal and binds loopback.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.ERROR)
        return
    ray.init(
        address="local",
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
