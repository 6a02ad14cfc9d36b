"""The objects of deploy/kuberay, built once: what the tests of these files look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from overlays import Tree, build

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"
OVERLAYS = {"l4": "L4", "a100": "A100", "h100": "H100"}  # folder: Ray's accelerator type
BUILT = {name: build(KUBERAY / "overlays" / name) for name in OVERLAYS}


def one(overlay: str, kind: str, name: str | None = None) -> Tree:
    """The object of a kind, and where there are several, of a name."""
    (found,) = (each for each in BUILT[overlay] if each["kind"] == kind and name in (None, each["metadata"]["name"]))
    return found


def cluster_specs(overlay: str) -> list[Tree]:
    """Of the jobs' cluster and of the service's."""
    return [one(overlay, "RayCluster")["spec"], one(overlay, "RayService")["spec"]["rayClusterConfig"]]


def groups(spec: Tree) -> list[Tree]:
    """The head group and the worker groups of a cluster."""
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods(overlay: str) -> Iterator[Tree]:
    """The pod templates of all groups."""
    for spec in cluster_specs(overlay):
        for group in groups(spec):
            yield group["template"]
