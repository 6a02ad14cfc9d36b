"""The configuration reference, generated from the models.

In: `RunConfig`. Out: Markdown with every field, its type, default and meaning.
"""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ragray.config import RunConfig

HEADER = """# Configuration

One YAML file per run, checked before anything starts; unknown keys are errors. Every command takes
`--config FILE` and any number of `--set a.b=c`; list items are addressed by number
(`--set data.faq.0.path=my.csv`). Relative paths are relative to the working directory.
This page is generated: `ragray inspect fields > docs/configuration.md`.
"""


_SEPARATORS: dict[Any, str] = {tuple: ".0.", dict: ".TYPE."}


def reference() -> str:
    """All fields as Markdown, a table for each section."""
    lines = [HEADER]
    _section(lines, RunConfig, "")
    return "\n".join(lines) + "\n"


def _section(lines: list[str], model: type[BaseModel], prefix: str) -> None:
    title = prefix.rstrip(".") or "Top level"
    lines += [f"## {title}", "", (model.__doc__ or "").strip().split("\n")[0], ""]
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    nested: list[tuple[type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        lines.append(f"| `{prefix}{name}` | {_type(field)} | {_default(field)} | {field.description or ''} |")
        for part in _models_in(field.annotation):
            separator = _SEPARATORS.get(typing.get_origin(field.annotation), ".")
            nested.append((part, f"{prefix}{name}{separator}"))
    lines.append("")
    for part, dotted in nested:
        _section(lines, part, dotted)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    parts = [annotation, *typing.get_args(annotation)]
    return [p for p in parts if isinstance(p, type) and issubclass(p, BaseModel)]


def _type(field: FieldInfo) -> str:
    return _type_name(field.annotation)


def _type_name(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(args[0])
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in args)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("none" if a is type(None) else _type_name(a) for a in args)
    if origin is tuple:
        return f"list of {_type_name(args[0])}"
    if origin is dict:
        return f"{_type_name(args[1])} by {'device type' if args[1] is not str else 'name'}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return str(getattr(annotation, "__name__", annotation))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return ""
    if field.default == {}:
        return "none"
    if isinstance(field.default, tuple):
        return ", ".join(f"`{v}`" for v in field.default) or "none"
    return "none" if field.default is None else f"`{field.default}`"
