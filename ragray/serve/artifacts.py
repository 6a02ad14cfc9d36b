"""The artifacts that an application serves, and what they say about each other.

In: URIs of an index, a confidence and an engine. Out: opened artifacts and their lineage. An index and a
confidence that were not made for each other are refused before any replica starts.
"""

from __future__ import annotations

import calendar
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragray.artifact import Artifact, Store
from ragray.errors import ArtifactError

if TYPE_CHECKING:
    from ragray.retrieval.store import IndexStore


def absolute_uri(uri: str) -> str:
    """`uri` in a form that means the same in every working directory."""
    return uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().absolute())


def open_artifact(uri: str, kind: str) -> Artifact:
    """The finished artifact in the folder `<store>/<kind>/<name>`.

    Raises:
        ArtifactError: there is none, or it is of another kind.
    """
    parts = absolute_uri(uri).rsplit("/", 2)
    if len(parts) < 3 or parts[1] != kind:
        raise ArtifactError(f"{uri}: not a folder of the {kind} stage", f"name one such as artifacts/demo/{kind}/…")
    return Store(parts[0]).open("/".join(parts))


def open_index(uri: str) -> Artifact | IndexStore:
    """The index in a folder: an artifact of the stage, or one that changes.

    Raises:
        ArtifactError: there is none.
    """
    is_store = "://" not in uri and (Path(absolute_uri(uri)) / "versions").is_dir()
    return open_store(uri) if is_store else open_artifact(uri, "index")


def open_store(folder: str) -> IndexStore:
    """A changing index."""
    from ragray.retrieval.store import IndexStore

    return IndexStore(Path(absolute_uri(folder)))


@dataclass(frozen=True, slots=True)
class Served:
    """What one application answers from, by URI, and where that came from, by digest."""

    index: str
    follows: bool  # the index changes
    confidence: str
    engine: str
    lineage: dict[str, str]
    created: int  # when the engine was made, seconds since 1970

    @classmethod
    def of(cls, index: Artifact | IndexStore, confidence: Artifact, engine: Artifact) -> Served:
        """Three finished artifacts that fit together; the index may be one that changes.

        Raises:
            ArtifactError: the confidence was fitted on another index, or the store cannot be opened.
        """
        if isinstance(index, Artifact):
            where, made_of, digest = index.uri, index.digest, index.digest
            fix = "name the two that belong together, or run `ragray run` again"
        else:
            where, made_of, digest = str(index.root), index.origin, index.open().digest
            fix = "create the store again from the run's index: `ragray live create`"
        fitted = confidence.manifest.inputs.get("index")
        if fitted is None or fitted.digest != made_of:
            raise ArtifactError(f"{confidence.uri}: fitted on another index than {where}", fix)
        return cls(
            index=absolute_uri(where),
            follows=not isinstance(index, Artifact),
            confidence=absolute_uri(confidence.uri),
            engine=absolute_uri(engine.uri),
            lineage=_lineage(digest, confidence, engine),
            created=calendar.timegm(time.strptime(engine.manifest.created, "%Y-%m-%dT%H:%M:%SZ")),
        )


def _lineage(index: str, confidence: Artifact, engine: Artifact) -> dict[str, str]:
    """Digests of what answers; model and adapter as far as the engine's manifest leads to them."""
    lineage = {"index": index, "confidence": confidence.digest, "engine": engine.digest}
    merged = engine.manifest.inputs.get("merge")
    if merged is None:
        return lineage
    lineage["model"] = merged.digest
    try:
        trained = open_artifact(merged.uri, "merge").manifest.inputs.get("train")
    except ArtifactError:  # removed, or on another machine: the engine serves without it
        return lineage
    if trained is not None:
        lineage["adapter"] = trained.digest
    return lineage
