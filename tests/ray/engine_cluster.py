"""Engines on a simulated cluster of CPU, L4, A100 and H100 nodes, in a process of its own: `engine_cluster.py FOLDER`.

Prints what happened in each scene as one line of JSON. A builder that is registered here stands for those of GPUs: it
writes where it ran, waits while it is told to, and answers as the model does. `engine_cluster.py FOLDER ADDRESS` is a
second builder of the same engine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_TRAIN_V2_ENABLED": "1"}
sys.path.append(str(Path(__file__).parents[1] / "unit" / "engine"))

from tiny_model import make_model_folder

from ragray.artifact import Artifact, Store
from ragray.config import RunConfig
from ragray.config_loading import validate_config
from ragray.engine.builders import BUILDERS
from ragray.engine.manifest import EngineManifest
from ragray.engine.protocol import (
    BuildOrder,
    BuildPlan,
    BuiltEngine,
    DeviceInfo,
    EngineSpec,
    Environment,
    Limits,
)
from ragray.errors import RagrayError

SYSTEM = {
    "health_check_initial_delay_ms": 1000,  # a node that is lost is missed after three seconds, not eighteen
    "health_check_period_ms": 500,
    "prestart_worker_first_driver": False,
}


class StandIn:
    """Builds for any accelerator: a file that says where."""

    name = "stand-in"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def version(self) -> str:
        return "stand-in==1"

    def environment(self) -> tuple[Environment, ...]:
        return ()

    def supports(self, device: DeviceInfo, spec: EngineSpec) -> str | None:
        return "the stand-in builds for accelerators" if device.type == "cpu" else None

    def plan(self, device: DeviceInfo, spec: EngineSpec) -> BuildPlan:
        limits = Limits(spec.max_batch_size, spec.max_input_tokens, spec.max_input_tokens + spec.max_new_tokens)
        return BuildPlan(spec.weights or "fp16", limits, "it is a test")

    def build(self, order: BuildOrder, out: Path) -> BuiltEngine:
        import ray

        facts = {
            "node": ray.get_runtime_context().get_node_id(),
            "type": order.device.type,
            "pid": os.getpid(),
            "wrapped": os.environ.get("WRAPPED"),
            "env": os.environ.get("RAGRAY_TEST"),
        }
        (self.folder / "builds" / f"{time.time_ns()}").write_text(json.dumps(facts))
        while (self.folder / "hold").exists():
            time.sleep(0.05)
        (out / "stand-in.json").write_text(json.dumps(facts))
        return BuiltEngine(format="stand-in", quantization=None, kv_cache="none", runtime={})

    def verify(
        self, order: BuildOrder, manifest: EngineManifest, out: Path, prompts: Sequence[Sequence[int]], tokens: int
    ) -> list[tuple[int, ...]]:
        answers = json.loads((self.folder / "answers.json").read_text())
        return [tuple(answer) for answer in answers]


def config_of(folder: Path, seed: int = 1, **engine: Any) -> RunConfig:
    """Settings of a run; another seed is another key."""
    return validate_config(
        {
            "name": "test",
            "output": str(folder / "store"),
            "seed": seed,
            "data": {"faq": [{"path": "none.jsonl"}]},
            "train": {"base_model": "none"},
            "engine": {"kind": "transformers", "cpu_threads": 1, "wait_s": 120, "build_s": 120, **engine},
        },
        "test",
    )


def until(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + 120
    while not (value := found()):
        assert time.monotonic() < end, "waited in vain: see what was said above"
        time.sleep(0.05)
    return value


class Scenes:
    """What a test asks for, on one cluster."""

    def __init__(self, cluster: Any, folder: Path, merged: Artifact) -> None:
        self.cluster, self.folder, self.merged = cluster, folder, merged
        self.nodes = {name: [self.add(name)] for name in ("cpu", "L4", "A100", "H100")}
        cluster.wait_for_nodes()

    def add(self, name: str) -> Any:
        if name == "cpu":
            return self.cluster.add_node(num_cpus=2)  # for the build and the model's own answers
        return self.cluster.add_node(num_cpus=1, num_gpus=1, resources={f"accelerator_type:{name}": 1})

    def marks(self) -> list[dict[str, Any]]:
        """What was built since the last look, in order."""
        paths = sorted((self.folder / "builds").iterdir())
        found = [json.loads(path.read_text()) for path in paths]
        for path in paths:
            path.unlink()
        return found

    def build(self, config: RunConfig, *types: str) -> dict[str, Any]:
        """The engines' outcomes, or the error, and what was said."""
        from ragray.distributed.build_engine import build_engines

        said: list[str] = []
        try:
            outcomes = build_engines(config, self.merged, types, report=said.append)
        except RagrayError as error:
            return {"said": said, "error": [error.message, error.fix]}
        return {"said": said, "engines": {name: self.facts(outcome) for name, outcome in outcomes.items()}}

    def facts(self, outcome: Any) -> dict[str, Any]:
        folder = outcome.artifact.folder
        where = folder / "engine" / "stand-in.json"
        manifest = json.loads((folder / "engine.json").read_text())
        return {
            "kept": outcome.skipped,
            "where": json.loads(where.read_text()) if where.exists() else None,
            "builder": manifest["builder"],
            "device": manifest["device"],
            "limits": manifest["limits"],
            "build_s": manifest["build_s"],
            "log": (folder / "build.log").read_text(),
        }

    def aside(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Start work in a thread, as only the main one may change the cluster; the result waits for it."""
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(work()))
        thread.start()

        def result() -> Any:
            thread.join()
            return found[0]

        return result

    def all_types(self) -> dict[str, Any]:
        """One engine for each type, and again."""
        wrapper = self.folder / "python"
        wrapper.write_text(f'#!/bin/sh\nWRAPPED=yes exec {sys.executable} "$@"\n')
        wrapper.chmod(0o700)
        config = config_of(
            self.folder, devices={"A100": {"py_executable": str(wrapper), "env": {"RAGRAY_TEST": "told"}}}
        )
        first = self.build(config, "all")
        marks = len(self.marks())
        second = self.build(config, "all")
        longer = config.model_copy(update={"engine": config.engine.model_copy(update={"max_input_tokens": 4096})})
        third = self.build(longer, "all")
        return {
            "first": first, "second": second, "third": third, "marks": marks,
            "nodes": {name: nodes[0].node_id for name, nodes in self.nodes.items()},
        }  # fmt: skip

    def killed(self) -> dict[str, Any]:
        """The node that builds is lost; another one of its type is there."""
        self.nodes["H100"].append(self.add("H100"))
        self.cluster.wait_for_nodes()
        self.marks()
        (self.folder / "hold").touch()
        result = self.aside(lambda: self.build(config_of(self.folder, seed=2), "H100"))
        (mark,) = until(self.marks)
        lost = next(node for node in self.nodes["H100"] if node.node_id == mark["node"])
        self.nodes["H100"].remove(lost)
        self.cluster.remove_node(lost, allow_graceful=False)
        (again,) = until(self.marks)
        (self.folder / "hold").unlink()
        return {"lost": mark, "again": again, "left": self.nodes["H100"][0].node_id, **result()}

    def waiting(self) -> dict[str, Any]:
        """A type without a node, for which none comes, and then one does; one whose only device is in use."""
        never = self.build(config_of(self.folder, seed=3, wait_s=4), "T4")
        result = self.aside(lambda: self.build(config_of(self.folder, seed=3), "T4"))
        time.sleep(3)
        self.nodes["T4"] = [self.add("T4")]
        came = result()
        self.marks()
        (self.folder / "hold").touch()
        occupied = self.aside(lambda: self.build(config_of(self.folder, seed=4), "T4"))
        until(self.marks)
        busy = self.build(config_of(self.folder, seed=5, wait_s=4), "T4")
        (self.folder / "hold").unlink()
        return {"never": never, "came": came, "busy": busy, "occupied": occupied()}

    def twice(self) -> dict[str, Any]:
        """Two processes build one engine at once; then one of two is killed while it builds."""
        self.marks()
        (self.folder / "hold").touch()
        other = self.second()
        until(self.marks)
        result = self.aside(lambda: self.build(config_of(self.folder, seed=6), "L4"))
        time.sleep(3)
        (self.folder / "hold").unlink()
        facts = {"mine": result(), "other": json.loads(other.communicate()[0]), "more": self.marks()}
        shutil.rmtree(self.folder / "store" / "engine")
        (self.folder / "hold").touch()
        other = self.second()
        until(self.marks)
        other.send_signal(signal.SIGKILL)
        other.communicate()
        (self.folder / "hold").unlink()
        return facts | {"after": self.build(config_of(self.folder, seed=6), "L4")}

    def second(self) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, str(self.folder), self.cluster.address]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def unusable(scenes: Scenes) -> dict[str, Any]:
    """An engine that answers otherwise than its model."""
    from ragray.distributed.build_engine import build_engines, check_usable

    path = scenes.folder / "answers.json"
    right = path.read_text()
    path.write_text(json.dumps([answer[::-1] for answer in json.loads(right)]))
    (outcome,) = build_engines(config_of(scenes.folder, seed=7), scenes.merged, ["A100"]).values()
    path.write_text(right)
    try:
        check_usable(outcome.artifact)
    except RagrayError as error:
        return {"error": [error.message, error.fix], "metrics": outcome.artifact.manifest.metrics}
    return {}


def join(address: str) -> None:
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")


def stand_in(folder: Path) -> None:
    """Register the builder, before others that may support the accelerators."""
    others = dict(BUILDERS)
    BUILDERS.clear()
    BUILDERS["stand-in"] = StandIn(folder)
    BUILDERS.update(others)


def make_merged(folder: Path) -> Artifact:
    from ragray.engine.verification import make_reference

    store = Store(str(folder / "store"))
    with store.draft("merge", "0" * 64, format_version=1, inputs={}, config={}, code="") as draft:
        make_model_folder(draft.folder / "model")
        reference = make_reference(draft.folder / "model", threads=1)
    (folder / "answers.json").write_text(json.dumps(reference.answers))
    assert draft.result is not None
    return draft.result


def main(folder: Path) -> None:
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    (folder / "builds").mkdir(parents=True)
    stand_in(folder)
    merged = make_merged(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": SYSTEM})
    join(cluster.address)
    import ray

    try:
        scenes = Scenes(cluster, folder, merged)
        facts = {
            "all_types": scenes.all_types(),
            "killed": scenes.killed(),
            "waiting": scenes.waiting(),
            "twice": scenes.twice(),
            "unusable": unusable(scenes),
        }
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(facts), file=answers, flush=True)


def second(folder: Path, address: str) -> None:
    """Another process that builds the engine of `Scenes.twice`."""
    stand_in(folder)
    join(address)
    store = Store(str(folder / "store"))
    scenes = Scenes.__new__(Scenes)
    scenes.folder, scenes.merged = folder, store.open(store.uri("merge", "0" * 64))
    sys.stdout.write(json.dumps(scenes.build(config_of(folder, seed=6), "L4")))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        second(Path(sys.argv[1]), sys.argv[2])
