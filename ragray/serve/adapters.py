"""Further models of a served engine: LoRA adapters, each under an id of its own.

In: folders of finished `train` artifacts by id, and the engine that shall answer with them. Out: where they lie, and
their digests; in the replica that holds the engine, folders made for its weights. What does not fit is refused before
any replica starts.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ragray.ancestry import ancestor
from ragray.artifact import Artifact
from ragray.config import EngineConfig
from ragray.engine.adapters import Trained, check_engine, fitted, write_layers
from ragray.engine.protocol import Engine
from ragray.errors import ArtifactError, ConfigError
from ragray.serve.artifacts import absolute_uri, open_artifact


@dataclass(frozen=True, slots=True)
class Adapters:
    """Adapters by the id of their model."""

    uris: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def open_adapters(named: Mapping[str, str], engine: Artifact | None) -> Adapters:
    """The adapters that an engine can answer with.

    Args:
        named: folders of the train stage, by id.
        engine: what shall answer; None where nothing is named.

    Raises:
        ArtifactError: one is missing, or was not trained on the engine's base model.
        EngineError: the engine takes no adapters.
    """
    if engine is None or not named:
        return Adapters()
    check_engine(engine.folder)
    merged = merged_into(engine)
    opened = {name: open_artifact(uri, "train") for name, uri in named.items()}
    for artifact in opened.values():
        fitted(_trained(artifact), merged, engine.folder)
    return Adapters(
        {name: absolute_uri(artifact.uri) for name, artifact in opened.items()},
        {name: artifact.digest for name, artifact in opened.items()},
    )


def check_ids(model: str, adapters: Mapping[str, str]) -> None:
    """Check that no two models of a server have one id.

    Raises:
        ConfigError: an adapter is named as the engine's own model.
    """
    if model in adapters:
        raise ConfigError(f"the adapter {model!r} has the id of the engine's own model", "give the adapter another id")


def merged_into(engine: Artifact) -> Trained | None:
    """The adapter in the engine's model; None where the lineage does not lead there any more."""
    try:
        return _trained(ancestor(engine, "merge", "train"))
    except ArtifactError:
        return None


def load_adapted(engine: Artifact, settings: EngineConfig, uris: Mapping[str, str]) -> Engine:
    """The engine with adapters; `uris` are those that `open_adapters` found to fit.

    Raises:
        ArtifactError: an artifact is missing or damaged.
        EngineError: the engine does not run on this device.
    """
    from ragray.engine.runtime import load_engine

    if not uris:
        return load_engine(engine.folder, settings)
    merged = merged_into(engine)
    folder = Path(tempfile.mkdtemp(prefix="ragray-adapters-"))
    for name, uri in uris.items():
        write_layers(fitted(_trained(open_artifact(uri, "train")), merged, engine.folder), folder / name)
    loaded = load_engine(engine.folder, settings, {name: folder / name for name in uris})
    weakref.finalize(loaded, shutil.rmtree, folder)  # not before: TensorRT-LLM reads adapters when first asked
    return loaded


def _trained(artifact: Artifact) -> Trained:
    return Trained(artifact.folder, artifact.uri)
