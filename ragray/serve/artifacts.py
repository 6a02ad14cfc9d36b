"""The artifacts that an application serves, and what they say about each other.

In: URIs of an index, a confidence and an engine. Out: opened artifacts and their lineage. An index and a
confidence that were not made for each other are refused before any replica starts.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ragray.artifact import Artifact, Store
from ragray.errors import ArtifactError

if TYPE_CHECKING:
    from ragray.retrieval.store import IndexStore


Parts = Literal["full", "retrieval", "generation"]


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
    """What one application answers from, by URI, and where that came from, by digest. None: it has no such part."""

    index: str | None
    follows: bool  # the index changes
    confidence: str | None
    engine: str | None
    lineage: dict[str, str]
    created: int  # when the engine was made, seconds since 1970; 0 without one
    adapters: dict[str, str] = field(default_factory=dict)  # of further models, by id: URI
    adapter_digests: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> Parts:
        """Which application this makes."""
        if self.engine is None:
            return "retrieval"
        return "generation" if self.index is None else "full"

    @property
    def of_retriever(self) -> tuple[object, ...]:
        """All that decides what a retriever finds; of an index that changes, whatever its version."""
        index = None if self.follows else self.lineage.get("index")
        return self.index, self.follows, index, self.confidence, self.lineage.get("confidence")

    @property
    def of_generator(self) -> tuple[object, ...]:
        """All that decides what a generator writes."""
        digests = (self.lineage.get(name) for name in ("engine", "model", "adapter"))
        return self.engine, *digests, *sorted(self.adapters.items()), *sorted(self.adapter_digests.items())

    @classmethod
    def of(
        cls,
        index: Artifact | IndexStore | None,
        confidence: Artifact | None,
        engine: Artifact | None,
        adapters: Mapping[str, str] | None = None,
    ) -> Served:
        """Finished artifacts that fit together; the index may be one that changes, adapters are named by id.

        Raises:
            ArtifactError: the confidence was fitted on another index, the store cannot be opened, or an adapter does
                not fit the engine.
            EngineError: the engine takes no adapters.
        """
        from ragray.serve.adapters import open_adapters

        if index is not None and confidence is not None:
            _check_fitted(index, confidence)
        return cls(
            index=None if index is None else absolute_uri(_place(index)),
            follows=index is not None and not isinstance(index, Artifact),
            confidence=None if confidence is None else absolute_uri(confidence.uri),
            engine=None if engine is None else absolute_uri(engine.uri),
            lineage=_lineage(index, confidence, engine),
            created=0 if engine is None else _seconds(engine.manifest.created),
            adapters=(opened := open_adapters(adapters or {}, engine)).uris,
            adapter_digests=opened.digests,
        )


def _place(index: Artifact | IndexStore) -> str:
    return index.uri if isinstance(index, Artifact) else str(index.root)


def _seconds(created: str) -> int:
    return calendar.timegm(time.strptime(created, "%Y-%m-%dT%H:%M:%SZ"))


def _check_fitted(index: Artifact | IndexStore, confidence: Artifact) -> None:
    if isinstance(index, Artifact):
        made_of, fix = index.digest, "name the two that belong together, or run `ragray run` again"
    else:
        made_of, fix = index.origin, "create the store again from the run's index: `ragray live create`"
    fitted = confidence.manifest.inputs.get("index")
    if fitted is None or fitted.digest != made_of:
        raise ArtifactError(f"{confidence.uri}: fitted on another index than {_place(index)}", fix)


def _lineage(
    index: Artifact | IndexStore | None, confidence: Artifact | None, engine: Artifact | None
) -> dict[str, str]:
    """Digests of what answers; model and adapter as far as the engine's manifest leads to them."""
    lineage = {}
    if index is not None:
        lineage["index"] = index.digest if isinstance(index, Artifact) else index.open().digest
    if confidence is not None:
        lineage["confidence"] = confidence.digest
    if engine is None:
        return lineage
    lineage["engine"] = engine.digest
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
