"""Artifacts: folders that know what they are, and are whole or absent.

In: a storage URI (local path, s3://, gs://). Out: `Store.draft`, which writes a folder aside and renames
it into place with `manifest.json` last, and `Store.find`, which returns it again when its key (inputs,
config, code) is unchanged. The manifest holds the lineage. A folder without a manifest is unfinished
and is never read. The digest covers the files' contents, not the times in the manifest.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from ragray.errors import ArtifactError, WorkError
from ragray.locks import Check, Waiting, file_lock, object_lock
from ragray.manifest import (
    MANIFEST,
    Manifest,
    Source,
    artifact_key,
    code_digest,
    content_digest,
    file_digest,
    files_below,
    folder_digest,
    package_versions,
)

__all__ = [
    "Artifact", "Draft", "Manifest", "Source", "Store", "artifact_key", "code_digest", "explain_os_error",
    "file_digest", "folder_digest",
]  # fmt: skip


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `folder` is a local folder with its files (a copy, for a remote store)."""

    uri: str
    folder: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The digest of its content, 64 hexadecimal digits."""
        return self.manifest.digest

    def source(self) -> Source:
        """This artifact as another one's input."""
        return Source(kind=self.manifest.kind, uri=self.uri, digest=self.digest)

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            ArtifactError: there is no such file in it.
        """
        path = self.folder / name
        if not path.exists():
            raise ArtifactError(f"{self.uri}: has no {name}", f"remove the folder {self.uri} and run the stage again")
        return path

    def verify(self) -> None:
        """Compare every file with its recorded digest.

        Raises:
            ArtifactError: a file is missing or was changed.
        """
        for name, entry in self.manifest.files.items():
            if file_digest(self.file(name)) != entry["sha256"]:
                raise ArtifactError(
                    f"{self.uri}: {name} was changed after it was written",
                    f"remove the folder {self.uri} and run the stage again",
                )


@dataclass
class Draft:
    """An artifact that is being written. Fill `folder`, and the mappings with what is to be recorded."""

    folder: Path
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    volatile: set[str] = field(default_factory=set)  # files that hold times; left out of the digest
    result: Artifact | None = None


class Store:
    """Artifacts below one URI, as `<root>/<kind>/<first 16 digits of the key>/`."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._remote = "://" in root  # file:// too: it goes the way of s3://
        if self._remote:
            self._fs, self._base = pafs.FileSystem.from_uri(self.root)
        else:
            self._fs, self._base = pafs.LocalFileSystem(), str(Path(self.root).absolute())

    def uri(self, kind: str, key: str) -> str:
        """Where the artifact of this kind and key is or would be."""
        return f"{self.root}/{kind}/{key[:16]}"

    def find(self, kind: str, key: str) -> Artifact | None:
        """The finished artifact of this kind and key, or None."""
        return self._open(kind, key[:16], key)

    def open(self, uri: str) -> Artifact:
        """The artifact in a folder below this store's root.

        Raises:
            ArtifactError: there is no finished artifact.
        """
        kind, _, name = uri.rstrip("/").removeprefix(self.root).strip("/").partition("/")
        found = self._open(kind, name, None)
        if found is None:
            raise ArtifactError(
                f"{uri}: no finished artifact here", "run the stage that makes it, such as `ragray run`"
            )
        return found

    @contextmanager
    def draft(
        self,
        kind: str,
        key: str,
        *,
        format_version: int,
        inputs: Mapping[str, Source],
        config: Mapping[str, Any],
        code: str,
    ) -> Iterator[Draft]:
        """Write an artifact aside; on a clean exit it is put in place, and `draft.result` is the artifact.

        Raises:
            WorkError: the disk is full, or writing is not permitted.
        """
        started = time.perf_counter()
        aside = self._aside(kind, key)
        draft = Draft(folder=aside)
        try:
            yield draft
            draft.timings_s.setdefault("total", time.perf_counter() - started)
            manifest = _manifest(draft, kind, key, format_version, inputs, config, code)
            draft.result = self._put(aside, manifest)
        except OSError as error:
            raise explain_os_error(error, self.uri(kind, key)) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def work_folder(self, kind: str, key: str) -> Path:
        """A folder for unfinished work of this key that a later run may resume, such as checkpoints.

        For a remote store it is on this machine's disk.
        """
        parent = (
            Path(tempfile.gettempdir()) / f"ragray-work-{os.getuid()}" if self._remote else Path(self._base) / ".work"
        )
        folder = parent / f"{kind}-{key[:16]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, self.root) from error
        return folder

    def forget_work(self, kind: str, key: str) -> None:
        """Remove the work folder of a key whose artifact is finished."""
        shutil.rmtree(self.work_folder(kind, key), ignore_errors=True)

    @contextmanager
    def lock(self, kind: str, key: str, waiting: Waiting) -> Iterator[Check]:
        """Let one process at a time make the artifact of this key; one that is killed lets go of it.

        Args:
            kind: of the artifact.
            key: of the artifact.
            waiting: hears who holds it, where another process does.

        Raises:
            WorkError: the storage permits no locks.
        """
        place = f"{self._base}/.locks/{kind}-{key[:16]}"
        try:
            if not self._remote:
                with file_lock(Path(place), waiting) as check:
                    yield check
                return
            self._fs.create_dir(f"{self._base}/.locks", recursive=True)
            with object_lock(self._fs, place, waiting) as check:
                yield check
        except OSError as error:
            raise explain_os_error(error, self.root) from error

    def _open(self, kind: str, name: str, key: str | None) -> Artifact | None:
        place = f"{self._base}/{kind}/{name}"
        uri = f"{self.root}/{kind}/{name}"
        info = self._fs.get_file_info(f"{place}/{MANIFEST}")
        if info.type != pafs.FileType.File:
            return None
        with self._fs.open_input_stream(f"{place}/{MANIFEST}") as stream:
            manifest = Manifest.from_json(stream.read().decode(), uri)
        if key is not None and manifest.key != key:
            return None
        return Artifact(
            uri=uri, folder=self._fetch(place, manifest) if self._remote else Path(place), manifest=manifest
        )

    def _fetch(self, place: str, manifest: Manifest) -> Path:
        """A local copy of a remote artifact, fetched once per machine."""
        target = Path(tempfile.gettempdir()) / f"ragray-artifacts-{os.getuid()}" / manifest.digest
        if not target.exists():
            aside = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
            aside.mkdir(parents=True, mode=0o700)
            pafs.copy_files(
                place, str(aside), source_filesystem=self._fs, destination_filesystem=pafs.LocalFileSystem()
            )
            _rename(aside, target)
        return target

    def _aside(self, kind: str, key: str) -> Path:
        """A fresh folder for a draft; leftovers of dead processes of this machine are removed."""
        host = socket.gethostname()
        name = f"{kind}-{key[:16]}.{host}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        parent = Path(tempfile.gettempdir()) if self._remote else Path(self._base) / ".drafts"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.glob(f"{kind}-*.{host}.*"):
                if not _alive(int(left.name.split(".")[-2])):
                    shutil.rmtree(left, ignore_errors=True)
            (parent / name).mkdir()
        except OSError as error:
            raise explain_os_error(error, self.root) from error
        return parent / name

    def _put(self, aside: Path, manifest: Manifest) -> Artifact:
        name = manifest.key[:16]
        place = f"{self._base}/{manifest.kind}/{name}"
        if self._remote:
            self._fs.create_dir(place, recursive=True)
            pafs.copy_files(
                str(aside), place, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=self._fs
            )
            with self._fs.open_output_stream(f"{place}/{MANIFEST}") as stream:
                stream.write(manifest.to_json().encode())
        else:
            _write_durably(aside / MANIFEST, manifest.to_json())
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            if Path(place).exists() and not (Path(place) / MANIFEST).exists():
                shutil.rmtree(place)  # unfinished: written by another tool or damaged by hand
            _rename(aside, Path(place))
        found = self.find(manifest.kind, manifest.key)
        if found is None:
            raise ArtifactError(f"{place}: another artifact is in the way", f"remove the folder {place}")
        return found


def explain_os_error(error: OSError, where: str) -> WorkError:
    """The error of a full disk, a missing permission or another fault of the storage, for a person."""
    what = f"{error.filename or where}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WorkError(f"{what} (while writing below {where})", "free disk space, or set `output` to another disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return WorkError(f"{what} (while writing below {where})", "set `output` to a folder that you may write to")
    return WorkError(f"{what} (while writing below {where})", "check the storage that `output` names")


def _manifest(
    draft: Draft,
    kind: str,
    key: str,
    format_version: int,
    inputs: Mapping[str, Source],
    config: Mapping[str, Any],
    code: str,
) -> Manifest:
    files = {
        name: {
            "bytes": (draft.folder / name).stat().st_size,
            "sha256": file_digest(draft.folder / name),
            "volatile": name in draft.volatile,
        }
        for name in files_below(draft.folder)
    }
    if unknown := draft.volatile - set(files):
        raise ArtifactError(f"{kind}: no such volatile files: {sorted(unknown)}", "report this as a defect of ragray")
    digest = content_digest({name: str(f["sha256"]) for name, f in files.items() if not f["volatile"]})
    return Manifest(
        kind=kind,
        key=key,
        digest=digest,
        format_version=format_version,
        inputs=dict(inputs),
        config=dict(config),
        code=code,
        counts=draft.counts,
        metrics=draft.metrics,
        timings_s={name: round(seconds, 3) for name, seconds in draft.timings_s.items()},
        files=files,
        packages=package_versions(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _rename(aside: Path, target: Path) -> None:
    """Rename a folder into place; where another process was first, its equal folder stays."""
    try:
        aside.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(aside)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
