"""What Kubernetes and KubeRay accept: strict checks of whole objects against published schemas, without a network."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

RELEASE = "1.34"  # of Kubernetes
_BASE = "https://kubernetes.io/api/"
_FOLDER = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{RELEASE}.0-local-strict"
_API = json.loads(Path(__file__).with_name("kuberay_api.json").read_text(encoding="utf-8"))


def mistakes(tree: dict[str, Any]) -> list[str]:
    """Each place of an object that its schema refuses, unknown fields among them."""
    if str(tree.get("apiVersion", "")).startswith("ray.io/"):
        checked = _validator(f"{_BASE}kuberay/{tree['kind']}")
    else:
        from kubernetes_validate import ValidationError, validate

        try:
            validate(tree, RELEASE, strict=True)
        except ValidationError as error:
            return [f"{error.json_path}: {error.message}"]
        return []
    return [f"{error.json_path}: {error.message}" for error in checked.iter_errors(tree)]


@cache
def _validator(uri: str) -> Draft202012Validator:
    definitions = json.loads((_FOLDER / "_definitions.json").read_text(encoding="utf-8"))
    registry: Registry[Any] = Registry().with_resource(f"{_BASE}_definitions.json", Resource.from_contents(definitions))
    registry = registry.with_resource(f"{_BASE}kuberay", Resource.from_contents(_kuberay()))
    return Draft202012Validator({"$ref": f"{_BASE}kuberay#/$defs/{uri.rpartition('/')[2]}"}, registry=registry)


def _kuberay() -> dict[str, Any]:
    kinds = {
        kind: _object({"apiVersion": "ray.io/v1!", "kind": f"{kind}!", "metadata": f"{_META}!", "spec": f"{spec}!"})
        for kind, spec in _API["kinds"].items()
    }
    for kind, schema in kinds.items():
        schema["properties"] |= {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
    types = {name: _object(fields) for name, fields in _API["types"].items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"{_BASE}kuberay", "$defs": kinds | types}


_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def _object(fields: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _schema(kind.removesuffix("!")) for name, kind in fields.items()},
        "required": [name for name, kind in fields.items() if kind.endswith("!")],
        "additionalProperties": False,
    }


def _schema(kind: str) -> dict[str, Any]:
    name, least, minimum = kind.partition(">=")
    if kind.startswith("["):
        return {"type": "array", "items": _schema(kind[1:-1])}
    if kind == "{}":
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if "|" in kind:
        return {"enum": kind.split("|")}
    if name in ("string", "boolean", "integer", "number"):
        return {"type": name} | ({"minimum": int(minimum)} if least else {})
    if kind.startswith("io.k8s."):
        return {"$ref": f"{_BASE}_definitions.json#/$defs/{kind}"}
    return {"$ref": f"#/$defs/{kind}"}
