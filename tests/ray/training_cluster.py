"""Training on a simulated cluster of several nodes, in a process of its own: `python training_cluster.py SCENE FOLDER`.

Prints what a test asks for as one line of JSON.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5", "OMP_NUM_THREADS": "1"}

tiny = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "train" / "conftest.py"))


def make_run(folder: Path, **changes: Any) -> Any:
    from ragray.config_train import TrainConfig
    from ragray.train.loop import TrainRun

    model = tiny["make_tiny_model"](folder / "tiny")
    examples = tiny["write_examples"](folder / "examples.parquet", tiny["example_rows"](64, 4))
    (folder / "work").mkdir()
    settings = TrainConfig(
        base_model=str(model),
        **{"global_batch_examples": 32, "learning_rate": 1e-3, "max_length": 512, "keep_checkpoints": 99, **changes},
    )
    return TrainRun(settings, 17, str(model), str(examples), str(folder / "work"), "t")


def checkpoints(run: Any) -> list[str]:
    return sorted(path.name for path in Path(run.work_folder).glob("checkpoints/*"))


def until(found: Callable[[], Any]) -> Any:
    while not (value := found()):
        time.sleep(0.05)
    return value


def nodes_of_workers() -> list[str]:
    """The nodes of the placement groups that exist now."""
    import ray

    groups = ray.util.placement_group_table().values()
    return [node for group in groups if group["state"] == "CREATED" for node in group["bundles_to_node_id"].values()]


def preempted(cluster: Any, folder: Path) -> dict[str, Any]:
    """The worker's node announces its end; no checkpoint is due before."""
    import ray
    from ray._raylet import GcsClient

    from ragray.distributed.train_group import train_on_ray

    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    run = make_run(folder, max_steps=STEPS, epochs=9999, checkpoint_every_steps=9999, keep_best=0, max_failures=0)
    nodes: list[str] = []

    def drain() -> None:
        until(lambda: (Path(run.work_folder) / "progress.json").exists())
        nodes.extend(nodes_of_workers())
        reason = 2  # DRAIN_NODE_REASON_PREEMPTION
        end = int((time.time() + 3) * 1000)
        GcsClient(address=cluster.address).drain_node(nodes[0], reason, "the test takes it away", end)
        until(lambda: (nodes_of_workers() or nodes)[0] != nodes[0])
        nodes.extend(nodes_of_workers())

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    train_on_ray(run)
    thread.join(timeout=5)
    groups = ray.util.placement_group_table().values()
    return {"nodes": nodes, "checkpoints": checkpoints(run), "groups": [group["state"] for group in groups]}


def elastic(cluster: Any, folder: Path) -> dict[str, Any]:
    """A node joins while one of [1, 2] workers is training."""
    from ragray.distributed.train_group import train_on_ray

    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    scaling = {"num_workers": (1, 2), "resize_every_s": 1}
    run = make_run(folder, max_steps=STEPS, epochs=9999, checkpoint_every_steps=10, keep_best=0, **scaling)
    thread = threading.Thread(target=train_on_ray, args=(run,), daemon=True)
    thread.start()
    until(lambda: checkpoints(run))
    cluster.add_node(num_cpus=1)  # only the main thread may
    thread.join()
    folders = sorted(Path(run.work_folder).glob("checkpoints/step-*"))
    return {"sizes": [len(list(folder.glob("moments-*"))) for folder in folders], "checkpoints": checkpoints(run)}


STEPS = 300
SCENES = {"preempted": preempted, "elastic": elastic}


def main(scene: str, folder: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        facts = SCENES[scene](cluster, folder)
    finally:
        ray.shutdown()
        cluster.shutdown()
    from ragray.train.monitor import History

    last = sorted((folder / "work" / "checkpoints").glob("step-*"))[-1]
    records = History.load(last).records
    facts["steps"] = [record.step for record in records]
    facts["losses"] = [record.loss for record in records]
    print(json.dumps(facts), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
