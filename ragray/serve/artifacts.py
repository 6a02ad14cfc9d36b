"""The artifacts that an application serves, and what they say about each other.

In: URIs of an index, a confidence and an engine. Out: opened artifacts and their lineage. An index and a
confidence that were not made for each other are refused before any replica starts.
"""

from __future__ import annotations

import calendar
import time
from dataclasses import dataclass
from pathlib import Path

from ragray.artifact import Artifact, Store
from ragray.errors import ArtifactError


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


@dataclass(frozen=True, slots=True)
class Served:
    """What one application answers from, by URI, and where that came from, by digest."""

    index: str
    confidence: str
    engine: str
    lineage: dict[str, str]
    created: int  # when the engine was made, seconds since 1970

    @classmethod
    def of(cls, index: Artifact, confidence: Artifact, engine: Artifact) -> Served:
        """Three finished artifacts that fit together.

        Raises:
            ArtifactError: the confidence was fitted on another index.
        """
        fitted = confidence.manifest.inputs.get("index")
        if fitted is None or fitted.digest != index.digest:
            raise ArtifactError(
                f"{confidence.uri}: fitted on another index than {index.uri}",
                "name the two that belong together, or run `ragray run` again",
            )
        return cls(
            index=absolute_uri(index.uri),
            confidence=absolute_uri(confidence.uri),
            engine=absolute_uri(engine.uri),
            lineage=_lineage(index, confidence, engine),
            created=calendar.timegm(time.strptime(engine.manifest.created, "%Y-%m-%dT%H:%M:%SZ")),
        )


def _lineage(index: Artifact, confidence: Artifact, engine: Artifact) -> dict[str, str]:
    """Digests of what answers; model and adapter as far as the engine's manifest leads to them."""
    lineage = {"index": index.digest, "confidence": confidence.digest, "engine": engine.digest}
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
