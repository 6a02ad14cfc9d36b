"""The part of kustomize that deploy/kuberay uses: lists of resources, and JSON patches (RFC 6902) in files.

Anything else in a kustomization is an error here, so that what the tests check is what kustomize builds. Where kubectl
is installed, a test compares the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Tree = dict[str, Any]


def build(folder: Path) -> list[Tree]:
    """The objects that `kubectl kustomize FOLDER` prints, in the order of the files."""
    (wanted,) = _documents(folder / "kustomization.yaml")
    if unknown := set(wanted) - {"apiVersion", "kind", "resources", "patches"}:
        raise ValueError(f"{folder}: {sorted(unknown)} is not carried out here")
    built = [each for name in wanted["resources"] for each in _resource((folder / name).resolve())]
    for patch in wanted.get("patches", []):
        if set(patch) != {"path", "target"}:
            raise ValueError(f"{folder}: a patch has path and target, not {sorted(patch)}")
        targets = [each for each in built if _is_target(each, patch["target"])]
        if len(targets) != 1:
            raise ValueError(f"{folder}: {patch['target']} fits {len(targets)} objects")
        (operations,) = _documents(folder / patch["path"])
        for operation in operations:
            _apply(targets[0], operation)
    return built


def _resource(path: Path) -> list[Tree]:
    return build(path) if path.is_dir() else _documents(path)


def _documents(path: Path) -> list[Any]:
    # A YAML anchor's uses are one object in memory: a patch of one would change all.
    return [_apart(each) for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def _apart(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _apart(each) for key, each in value.items()}
    return [_apart(each) for each in value] if isinstance(value, list) else value


def _is_target(found: Tree, target: Tree) -> bool:
    group, _, version = found["apiVersion"].rpartition("/")
    facts = {"group": group, "version": version, "kind": found["kind"], "name": found["metadata"].get("name")}
    return all(facts[key] == value for key, value in target.items())


def _apply(tree: Tree, operation: Tree) -> None:
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    place: Any = tree
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key = int(last) if isinstance(place, list) else last
    match operation["op"]:
        case "add" if isinstance(place, dict):
            place[key] = operation["value"]
        case "replace" if isinstance(place, list) or key in place:  # RFC 6902: what is replaced must be there
            place[key] = operation["value"]
        case other:
            raise ValueError(f"{other} at {operation['path']} is not carried out here")
