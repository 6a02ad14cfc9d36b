"""Training on a simulated cluster of several nodes, in a process of its own: `python training_cluster.py SCENE FOLDER`.

Prints what a test asks for as one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

os.environ |= {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how often the controller looks at the workers: two seconds
    "OMP_NUM_THREADS": "1",
}
SYSTEM = {
    "health_check_initial_delay_ms": 1000,  # a node that is lost is missed after three seconds, not eighteen
    "health_check_period_ms": 500,
    "prestart_worker_first_driver": False,  # Ray Train's actors cannot use workers that are started beforehand
}

tiny = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "train" / "conftest.py"))


def make_run(folder: Path, work: str = "work", **changes: Any) -> Any:
    from ragray.config_train import TrainConfig
    from ragray.train.loop import TrainRun

    model = tiny["make_tiny_model"](folder / "tiny")
    examples = tiny["write_examples"](folder / "examples.parquet", tiny["example_rows"](64, 4))
    (folder / work).mkdir()
    settings = TrainConfig(
        base_model=str(model),
        **{"global_batch_examples": 32, "learning_rate": 1e-3, "max_length": 512, "keep_checkpoints": 99, **changes},
    )
    return TrainRun(settings, 17, str(model), str(examples), str(folder / work), "t")


def checkpoints(run: Any) -> list[str]:
    return sorted(path.name for path in Path(run.work_folder).glob("checkpoints/step-*"))


def until(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + 300
    while not (value := found()):
        assert time.monotonic() < end, "waited in vain: see what the run said above"
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


def processes_of(actor: str) -> list[psutil.Process]:
    """The processes of this process's cluster that run actors of that class."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if actor in "".join(child.cmdline()):
                found.append(child)
    return found


def orphaned(cluster: Any, folder: Path) -> dict[str, Any]:
    """Ray Train's controller is killed; the command is given again."""
    import ray

    from ragray.distributed.train_group import train_on_ray
    from ragray.errors import WorkError

    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    run = make_run(folder, num_workers=2, max_steps=STEPS, epochs=9999, checkpoint_every_steps=10)

    def kill() -> None:
        until(lambda: checkpoints(run))
        for controller in processes_of("TrainController"):
            controller.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    told = ["nothing", "nothing"]
    try:
        train_on_ray(run)
    except WorkError as error:
        told = [error.message, error.fix]
    killer.join()
    reached = checkpoints(run)[-1]
    ray.shutdown()
    join(cluster)
    train_on_ray(run)
    return {"told": told, "reached": reached, "checkpoints": checkpoints(run)}


def killed(cluster: Any, folder: Path) -> dict[str, Any]:
    """Five of the workers and of their nodes are killed without notice, each in a group of its own."""
    import ray

    from ragray.artifact import folder_digest
    from ragray.distributed.train_group import train_on_ray
    from ragray.train.checkpoint import Checkpoints
    from ragray.train.trackers import METRICS, read_jsonl

    for _ in range(3):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    settings = {"num_workers": 2, "max_steps": 100, "epochs": 9999, "checkpoint_every_steps": 5, "max_failures": 20}
    settings["keep_best"] = 0
    whole, run = (make_run(folder, work, **settings) for work in ("whole", "work"))
    heeding = signal.getsignal(signal.SIGINT)
    train_on_ray(whole)
    signal.signal(signal.SIGINT, heeding)  # Ray Train's handler holds its controller
    training = threading.Thread(target=train_on_ray, args=(run,), daemon=True)
    training.start()
    chance, seen, kills = random.Random(5), list[psutil.Process](), list[str]()
    for kind in chance.sample(["worker", "worker", "worker", "node", "node"], 5):
        workers = until(partial(new_group, seen))
        wait_for_another_checkpoint(run)
        time.sleep(chance.random() / 10)  # somewhere between this checkpoint and the next
        seen += workers
        if kind == "worker":
            chance.choice(workers).send_signal(signal.SIGKILL)
        else:
            ids = nodes_of_workers()
            node = next(node for node in cluster.worker_nodes if node.node_id in ids)
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1)
        kills.append(kind)
    training.join()
    _, alive = psutil.wait_procs(seen, timeout=60)
    return {
        "kills": kills,
        "adapters": [
            folder_digest(Path(made.work_folder) / "checkpoints" / "step-00000100" / "adapter") for made in (whole, run)
        ],
        "groups": [group["state"] for group in ray.util.placement_group_table().values()],
        "actors": actors_left(),
        "processes": [process.name() for process in alive],
        "left": left(run),
        "whole_left": left(whole),
        "metrics": [row["step"] for row in read_jsonl(Path(run.work_folder) / METRICS)],
        "whole_losses": [record.loss for record in Checkpoints(Path(whole.work_folder), 2).latest().history().records],
    }


def actors_left() -> list[str]:
    """The classes of the actors that do not end within a minute, Ray's own for the whole cluster apart."""
    import ray

    def alive() -> list[str]:
        actors = ray._private.state.actors().values()  # type: ignore[attr-defined]
        return [
            actor["ActorClassName"]
            for actor in actors
            if actor["State"] != "DEAD" and actor["ActorClassName"] != "_AutoscalingCoordinatorActor"
        ]

    end = time.monotonic() + 60
    while alive() and time.monotonic() < end:
        time.sleep(0.1)
    return alive()


def new_group(seen: list[psutil.Process]) -> list[psutil.Process]:
    """Two workers that are none of those; empty while there are none."""
    found = [worker for worker in processes_of("RayTrainWorker") if worker not in seen]
    return found if len(found) == 2 else []


def wait_for_another_checkpoint(run: Any) -> None:
    before = checkpoints(run)
    until(lambda: checkpoints(run)[-1:] > before[-1:])


def left(run: Any) -> list[str]:
    """What is in a run's work folder, files of checkpoints apart."""
    work = Path(run.work_folder)
    return sorted(
        str(path.relative_to(work)) for path in work.rglob("*") if "step-" not in str(path.relative_to(work).parent)
    )


STEPS = 300
SCENES = {"preempted": preempted, "elastic": elastic, "killed": killed, "orphaned": orphaned}


def join(cluster: Any) -> None:
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")


def main(scene: str, folder: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": SYSTEM})
    join(cluster)
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
