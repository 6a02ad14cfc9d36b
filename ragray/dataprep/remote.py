"""Files that are not on this machine's disk: s3://, gs:// and file:// URIs, through Arrow's file systems.

In: a URI as the configuration gives it. Out: `RemoteFile`s, which can be listed, opened, and sent to other processes.
Credentials come from the environment, as the cloud's own tools take them; a URI that holds some is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow as pa

from ragray.errors import DataError

_URI = re.compile(r"(?P<root>[a-z][a-z0-9+]*://[^/]*)/?(?P<key>.*?)(?:\?(?P<options>[a-z_]+=.*))?", re.DOTALL)
_SCHEMES = ("s3", "gs", "file")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file or folder of a remote file system. `options` are those of its URI, such as region=us-east-1."""

    root: str  # scheme and bucket, such as s3://bucket
    key: str  # the path in it, without a leading slash
    options: str = ""

    def __str__(self) -> str:
        return f"{self.root}/{self.key}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.key).name

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the path."""
        return PurePosixPath(self.key).parts

    def open(self) -> pa.NativeFile:
        """A stream of the file's bytes, which can seek.

        Raises:
            OSError: it cannot be reached or read.
        """
        system, base = _system(self)
        return system.open_input_file(base + self.key)


def is_uri(path: str) -> bool:
    """Whether a path of the configuration names a file system of its own."""
    return re.match(r"[a-z][a-z0-9+]*://", path) is not None


def parse_uri(uri: str) -> RemoteFile:
    """The file that a URI names.

    Raises:
        DataError: its scheme is not supported, or it holds credentials.
    """
    match = _URI.fullmatch(uri)
    scheme = uri.partition("://")[0]
    if match is None or scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise DataError(f"{uri.partition('?')[0]}: cannot be opened", f"give a path of this machine, or one of {known}")
    if ("@" in match["root"] and "://anonymous@" not in match["root"]) or re.search(
        r"(?i)(access|secret)_key|token", match["options"] or ""
    ):
        raise DataError(
            f"{scheme}:// path holds credentials, which would be recorded",
            "take them out; set them in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    key = unquote(match["key"]) if scheme == "file" else match["key"]
    return RemoteFile(match["root"], key, match["options"] or "")


def find(place: RemoteFile) -> tuple[list[RemoteFile], str]:
    """The files that a path, folder or glob names, sorted; and which of the three it is.

    Raises:
        OSError: the file system cannot be reached.
    """
    import pyarrow.fs as pafs

    system, base = _system(place)
    folder, pattern = _fixed_part(place.key)
    if not pattern:
        info = system.get_file_info(base + place.key)
        if info.type == pafs.FileType.File:
            return [place], "file"
        if info.type != pafs.FileType.Directory:
            return [], "file"
    selector = pafs.FileSelector((base + folder).rstrip("/") or "/", allow_not_found=True, recursive=True)
    keys = [info.path.removeprefix(base) for info in system.get_file_info(selector) if info.is_file]
    fits = re.compile(_regex_of(place.key)) if pattern else re.compile(".*", re.DOTALL)
    found = [RemoteFile(place.root, key, place.options) for key in sorted(keys) if fits.fullmatch(key)]
    return found, "glob" if pattern else "folder"


def _system(place: RemoteFile) -> tuple[pa.fs.FileSystem, str]:
    """The file system and the path of its root in it, ending in "/"."""
    import pyarrow.fs as pafs

    options = f"?{place.options}" if place.options else ""
    system, base = pafs.FileSystem.from_uri(f"{place.root}/{options}")
    return system, base.rstrip("/") + "/"


def _fixed_part(key: str) -> tuple[str, str]:
    """The folder before the first part with a wildcard, and the rest; the rest is "" without any."""
    parts = key.split("/")
    for n, part in enumerate(parts):
        if any(sign in part for sign in "*?["):
            return "/".join(parts[:n]), "/".join(parts[n:])
    return key, ""


def _regex_of(pattern: str) -> str:
    """A regular expression for a glob: `*` and `?` stay within a part, `**` spans parts."""
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]/]+\])", pattern)
    return "".join(
        signs.get(piece)
        or (piece.replace("[!", "[^", 1) if piece[:1] == "[" and piece[-1:] == "]" else re.escape(piece))
        for piece in pieces
        if piece
    )
