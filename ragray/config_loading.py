"""Reads a run's settings: YAML and overrides in, a checked `RunConfig` out.

In: a YAML file and `a.b=c` overrides. Out: a frozen `RunConfig`, or one `ConfigError` that lists every
mistake with its dotted field, its value and what to write instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ragray.config import READ_FILES, RetrievalConfig, RunConfig
from ragray.config_data import Section
from ragray.errors import ConfigError

S = TypeVar("S", bound=BaseModel)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a run's configuration.

    Args:
        path: a YAML file.
        overrides: `dotted.field=value` strings; the value is YAML.

    Raises:
        ConfigError: naming every mistake at once.
    """
    tree = _read_yaml(Path(path))
    for override in overrides:
        _apply(tree, override)
    return validate_config(tree, str(path))


def load_retrieval(path: str | Path | None, overrides: Sequence[str] = ()) -> RetrievalConfig:
    """The retriever's settings: those of a run's file, or the defaults where there is none, with overrides.

    Raises:
        ConfigError: naming every mistake at once.
    """
    if path is not None:
        return load_config(path, overrides).retrieval
    tree: dict[str, Any] = {}
    for override in overrides:
        _apply(tree, override)
    return validate_section(_RetrievalOnly, tree, "--set").retrieval


class _RetrievalOnly(Section):
    retrieval: RetrievalConfig = RetrievalConfig()


def validate_config(tree: Mapping[str, Any], where: str) -> RunConfig:
    """Check a configuration that is already a mapping; `where` names it in errors."""
    return validate_section(RunConfig, tree, where)


def validate_section(model: type[S], tree: Mapping[str, Any], where: str) -> S:
    """`tree` as a `model`; files that it names are read.

    Raises:
        ConfigError: naming every mistake at once.
    """
    try:
        return model.model_validate(tree, context=READ_FILES)
    except ValidationError as error:
        lines = [f"{where}: {_explain(model, item)}" for item in error.errors()]
        raise ConfigError(
            "\n".join(lines), "correct the fields named above; all fields: docs/configuration.md"
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", "name an existing YAML file, such as configs/demo.yaml") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder", "name a YAML file in it") from None
    except (UnicodeDecodeError, PermissionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", "name a readable UTF-8 YAML file") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}", "correct the line named above") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no settings", "start from configs/demo.yaml")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    field, equals, text = override.partition("=")
    if not equals or not field:
        raise ConfigError(f"--set {override}: not of the form a.b=c", "write it like --set train.epochs=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {error}", "quote the value") from None
    *parents, last = field.split(".")
    node: Any = tree
    for depth, name in enumerate(parents):
        node = _child(node, name, ".".join(parents[: depth + 1]), override)
    if isinstance(node, list):
        node[_position(node, last, override)] = value
    else:
        node[last] = value


def _child(node: Any, name: str, dotted: str, override: str) -> Any:
    if isinstance(node, list):
        child = node[_position(node, name, override)]
    else:
        child = node.get(name)
        if child is None:
            child = node[name] = {}
    if not isinstance(child, dict | list):
        raise ConfigError(f"--set {override}: {dotted} is a value, not a section", "name a field of a section")
    return child


def _position(items: list[Any], name: str, override: str) -> int:
    if name.isdigit() and int(name) < len(items):
        return int(name)
    raise ConfigError(
        f"--set {override}: {name!r} is no position in a list of {len(items)}",
        "write a number, counted from 0",
    )


def _explain(model: type[BaseModel], error: ErrorDetails) -> str:
    location = list(error["loc"])
    dotted = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(known))}"
        return f"{dotted}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{dotted}: required, but not given"
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    return f"{dotted}: {error['msg']} (got {error['input']!r})"


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        current = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(current.model_fields)
