"""An index that changes: documents are added, replaced and deleted while it is searched.

In: passages and ids. Out: versions, each an index of its own that shares its segments with the others.

    ORIGIN                     digest of the index that the first version was
    CURRENT                    the number of the version that is searched, replaced atomically
    versions/<number>/         statistics and description, see `writing.write_version`
    segments/<name>/           see `segment`; never changed

A change makes a segment of the new passages, and a version in which the old ones of the same ids are gone. Every folder
is made aside and renamed into place, and `CURRENT` is replaced last: a process that is killed at any time leaves the
version before. Those who search keep the version that they opened.
"""

from __future__ import annotations

import fcntl
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from ragray.artifact import sync
from ragray.errors import ArtifactError, DataError
from ragray.manifest import MANIFEST, Manifest
from ragray.retrieval.index import CURRENT, HybridIndex, described, version_folder
from ragray.retrieval.segment import Flags, Segment, merge_segments
from ragray.retrieval.writing import write_passages, write_version
from ragray.schema import Passage, table_of

_ORIGIN = "ORIGIN"
_LEAST_LIVE = 0.5  # share of a single segment's documents from which on it stays as it is
_FALLING = 2  # a segment stays as it is while it has so many times the documents of all that came after it


@dataclass(frozen=True, slots=True)
class Change:
    """What an update did."""

    version: int
    added: int
    replaced: int
    deleted: int


@dataclass(frozen=True, slots=True)
class _Part:
    name: str  # of the segment
    live: Flags


class IndexStore:
    """The folder of a changing index. One process changes it at a time, any number search it."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @classmethod
    def create(cls, root: Path, index: Path) -> IndexStore:
        """A store whose first version is an index that was built before; its files are copied.

        Raises:
            ArtifactError: there is something at `root`, or no index at `index`.
        """
        root, opened = Path(root), HybridIndex.open(index)
        if root.exists() and any(root.iterdir()):
            raise ArtifactError(f"{root}: not an empty folder", "name a new folder")
        store = cls(root)
        for name in ("versions", "segments"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / _ORIGIN).write_text(_digest_of(index, opened) + "\n")
        sync(root / _ORIGIN)
        with store._locked():
            parts = []
            for postings in opened.corpus.parts:
                name = postings.segment.digest[:16]
                store._put(root / "segments" / name, partial(_copy, postings.segment.folder))
                parts.append(_Part(name, postings.live))
            store._commit(parts, opened, 1)
        return store

    @property
    def origin(self) -> str:
        """The digest of the artifact that the store was made of; of the index itself where that was no artifact.

        Raises:
            ArtifactError: this is no store, or a file is missing.
        """
        self._check()
        try:
            return (self.root / _ORIGIN).read_text().strip()
        except FileNotFoundError:
            raise ArtifactError(
                f"{self.root}: has no {_ORIGIN}", "create the store again from the run's index"
            ) from None

    @property
    def version(self) -> int:
        """The number of the current version.

        Raises:
            ArtifactError: this is no store, or the number cannot be read.
        """
        self._check()
        place = version_folder(self.root)
        if place == self.root:
            raise ArtifactError(
                f"{self.root}: no version is current", "run `ragray live roll-back`, or create it again"
            )
        return int(place.name)

    def versions(self) -> list[int]:
        """The numbers of all versions that are kept, ascending.

        Raises:
            ArtifactError: this is no store.
        """
        self._check()
        return sorted(int(path.name) for path in (self.root / "versions").iterdir() if path.name.isdigit())

    def open(self) -> HybridIndex:
        """The current version."""
        return HybridIndex.open(self.root)

    def update(self, passages: Sequence[Passage] | pa.Table = (), delete: Collection[str] = ()) -> Change:
        """Add passages, in place of those that have the same ids, and delete others; a new version.

        Args:
            passages: new ones; they stand after all others.
            delete: ids of documents.

        Raises:
            DataError: two passages have the same id, an id to be deleted is unknown or added too, or nothing is left.
        """
        table = passages if isinstance(passages, pa.Table) else table_of(Passage, passages)
        new = table.column("doc_id").to_pylist()
        with self._locked():
            opened = self.open()
            if both := set(new) & set(delete):
                raise DataError(f"{min(both)!r} is to be added and deleted", "name it once")
            places = {doc_id: opened.corpus.number(doc_id) for doc_id in (*new, *delete)}
            if unknown := [doc_id for doc_id in delete if places[doc_id] is None]:
                raise DataError(f"no document {unknown[0]!r} to be deleted", "use the doc_id that a search returns")
            gone = [number for number in places.values() if number is not None]
            parts = [part for part in _without(self._parts(opened), gone) if part.live.any()]
            if len(table):
                if opened.dense is not None:
                    opened.dense.encoder()  # the same model as before
                name = self._add(lambda folder: write_passages(table, opened.settings, folder))
                parts.append(_Part(name, np.ones(len(table), np.bool_)))
            replaced = len(gone) - len(set(delete))
            version = self._commit(parts, opened, self._next())
        return Change(version, len(new) - replaced, replaced, len(set(delete)))

    def compact(self, all_segments: bool = False) -> int | None:
        """Merge segments, so that each has twice the documents of all after it; rankings stay the same.

        Others may change the index meanwhile: what they did is kept. Returns the new version, or None where there was
        nothing to merge.

        Args:
            all_segments: make one segment of all.
        """
        with self._locked("compaction"):
            return self._compact(all_segments)

    def _compact(self, all_segments: bool) -> int | None:
        opened = self.open()
        parts = self._parts(opened)
        first = 0 if all_segments else _first_to_merge([int(part.live.sum()) for part in parts])
        merged = parts[first:]
        least = 1.0 if all_segments else _LEAST_LIVE
        if len(merged) < 2 and merged[0].live.mean() >= least:
            return None
        segments = [(postings.segment, part.live) for postings, part in zip(opened.corpus.parts, parts, strict=True)]
        name = self._add(lambda folder: merge_segments(segments[first:], folder))
        with self._locked():
            now = self.open()
            current = {part.name: part for part in self._parts(now)}
            together = _Part(name, np.concatenate([_live_of(part, current)[part.live] for part in merged]))
            if not together.live.any():
                return None  # all of it was deleted meanwhile
            names = {part.name for part in merged}
            others = [part for part in current.values() if part.name not in names]
            others.insert(sum(part.name in current for part in parts[:first]), together)
            return self._commit(others, now, self._next())

    def roll_back(self, version: int) -> None:
        """Make an earlier version the current one again; the later ones stay.

        Raises:
            ArtifactError: it is not kept, or damaged.
        """
        with self._locked():
            if version not in self.versions():
                kept = ", ".join(map(str, self.versions()))
                raise ArtifactError(f"{self.root}: no version {version}", f"use one of {kept}")
            HybridIndex.open(self._folder(version))
            self._point_at(version)

    def prune(self, keep: int) -> list[int]:
        """Remove all but the `keep` latest versions and the current one, and segments that none uses; what was removed.

        Raises:
            ValueError: `keep` is below 1.
        """
        if keep < 1:
            raise ValueError("at least one version is kept")
        with self._locked("compaction"), self._locked():  # what a compaction has made, no version uses yet
            versions = self.versions()
            kept = {*versions[-keep:], self.version}
            removed = [version for version in versions if version not in kept]
            used = {name for version in kept for name in _segments_of(self._folder(version))}
            for version in removed:
                shutil.rmtree(self._folder(version))
            for path in [*(self.root / "segments").iterdir(), *(self.root / "versions").glob(".*")]:
                if path.name not in used:
                    shutil.rmtree(path)
        return removed

    def _parts(self, opened: HybridIndex) -> list[_Part]:
        return [_Part(postings.segment.folder.name, postings.live) for postings in opened.corpus.parts]

    def _folder(self, version: int) -> Path:
        return self.root / "versions" / f"{version:08d}"

    def _next(self) -> int:
        return max(self.versions(), default=0) + 1

    def _add(self, write: Callable[[Path], None]) -> str:
        """Make a segment; its name."""
        name = uuid.uuid4().hex[:16]
        self._put(self.root / "segments" / name, write)
        return name

    def _commit(self, parts: Sequence[_Part], like: HybridIndex, version: int) -> int:
        """Make a version of these segments, with another's settings, prior and reranker, the current one."""
        opened = [(Segment(self.root / "segments" / part.name), part.live) for part in parts]
        paths = [f"../../segments/{part.name}" for part in parts]
        write = partial(write_version, opened, paths, like.settings, prior=like.prior, reranker=like.reranker)
        self._put(self._folder(version), write)
        self._point_at(version)
        return version

    def _put(self, target: Path, write: Callable[[Path], object]) -> None:
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        aside.mkdir()
        try:
            write(aside)
            for path in (*aside.rglob("*"), aside):
                sync(path)
            aside.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)  # what failed or was interrupted

    def _point_at(self, version: int) -> None:
        aside = self.root / f".{CURRENT}.{uuid.uuid4().hex[:8]}"
        aside.write_text(f"{version}\n")
        sync(aside)
        aside.replace(self.root / CURRENT)
        sync(self.root)

    @contextmanager
    def _locked(self, what: str = "change") -> Iterator[None]:
        """One process and thread at a time changes the store, or takes part in a compaction."""
        self._check()
        with (self.root / f".{what}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _check(self) -> None:
        if not (self.root / "versions").is_dir():
            raise ArtifactError(
                f"{self.root}: no changing index here", "make one: `ragray live create STORE --from INDEX`"
            )


def _first_to_merge(sizes: Sequence[int]) -> int:
    """From which segment on all are merged, so that each before has at least twice the documents of all after it."""
    first, later = len(sizes) - 1, 0
    for place in range(len(sizes) - 1, -1, -1):
        if sizes[place] < _FALLING * later:
            first = place
        later += sizes[place]
    return max(first, 0)


def _without(parts: Sequence[_Part], gone: Sequence[int]) -> list[_Part]:
    """The parts without some documents, numbered through all of them."""
    live = np.concatenate([part.live for part in parts])
    live[np.array(gone, np.int64)] = False
    edges = np.cumsum([len(part.live) for part in parts])[:-1]
    return [_Part(part.name, flags) for part, flags in zip(parts, np.split(live, edges), strict=True)]


def _live_of(part: _Part, current: dict[str, _Part]) -> Flags:
    return current[part.name].live if part.name in current else np.zeros(len(part.live), np.bool_)


def _digest_of(folder: Path, index: HybridIndex) -> str:
    manifest = Path(folder) / MANIFEST
    return Manifest.from_json(manifest.read_text("utf-8"), str(folder)).digest if manifest.exists() else index.digest


def _segments_of(version: Path) -> list[str]:
    return [Path(segment["path"]).name for segment in described(version)["segments"]]


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
