"""Finding and opening input files.

In: a path from the configuration (file, folder, glob or URI) and an encoding. Out: files in a fixed order,
each with a short unique label for ids, and their decoded lines. It exists so that every format fails
in the same words where a file is missing, empty or unreadable.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO, TypeAlias, cast

import pyarrow as pa

from ragray.dataprep.encoding import declared_encoding, detect_encoding
from ragray.dataprep.remote import RemoteFile, find, is_uri, parse_uri
from ragray.errors import DataError

REPLACEMENT = "\ufffd"  # stands where bytes could not be decoded
MAX_ROW_CHARS = 1 << 20  # of a line or a row; a longer one is rejected
MAX_WHOLE_BYTES = 1 << 29  # of a file in a format that is read as a whole, unpacked
PACKED = (".gz", ".zst")

Place: TypeAlias = Path | RemoteFile
_BLOCK_CHARS = 1 << 18


class CutLine(str):
    """The first `MAX_ROW_CHARS` characters of a line that is longer; the rest was passed over."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file: `source` is its path as the user gave it, `label` opens the ids of its records."""

    path: Place
    source: str
    label: str


def expand(pattern: str, endings: Sequence[str], setting: str) -> list[Place]:
    """The files that a path, folder, glob or URI names, sorted.

    Args:
        pattern: as in the configuration.
        endings: file endings, such as ".csv", that are taken from folders and globs; ".gz" or ".zst" may follow each.
        setting: dotted name of the setting, for errors.

    Raises:
        DataError: there is no such file, or none in the folder.
    """
    found, kind = _find_remote(pattern) if is_uri(pattern) else _find_local(pattern)
    if kind == "file" and found:
        return found
    found = [place for place in found if ending_of(place) in endings]
    if not found:
        problem = {
            "file": "no such file or folder",
            "folder": f"no file in this folder ends in {', '.join(endings)} (or .gz or .zst of these)",
            "glob": "no file matches",
        }[kind]
        looked = "" if is_uri(pattern) else f" (looked from {Path.cwd()})"
        raise DataError(
            f"{setting}: {pattern}: {problem}{looked}", f"set {setting} to an existing file, folder or glob"
        )
    return found


def _find_local(pattern: str) -> tuple[list[Place], str]:
    found: list[Place]
    path = Path(pattern)
    if path.is_file():
        return [path], "file"
    if path.is_dir():
        found = [*sorted(p for p in path.rglob("*") if p.is_file())]
        return found, "folder"
    matches = (Path(p) for p in glob.iglob(pattern, recursive=True))  # noqa: PTH207  (patterns may be absolute)
    found = [*sorted(p for p in matches if p.is_file())]
    return found, "glob" if glob.has_magic(pattern) else "file"


def _find_remote(uri: str) -> tuple[list[Place], str]:
    place = parse_uri(uri)
    with explained(place):
        found, kind = find(place)
        return list(found), kind


def identity_of(place: Place) -> Place:
    """What is the same for two names of one file."""
    return place.resolve() if isinstance(place, Path) else place


def ending_of(place: Place) -> str:
    """The lower-case file ending without ".gz" or ".zst": "faq.CSV.gz" gives ".csv"."""
    return PurePath(_unpacked_name(place).lower()).suffix


def stem_of(place: Place) -> str:
    """The file name without its ending and ".gz" or ".zst"."""
    return PurePath(_unpacked_name(place)).stem


def is_packed(place: Place) -> bool:
    """Whether the file is compressed as a whole."""
    return place.name.lower().endswith(PACKED)


def _unpacked_name(place: Place) -> str:
    return place.name.rpartition(".")[0] if is_packed(place) else place.name


def unique_labels(places: Sequence[Place]) -> list[str]:
    """A label for each path: its stem, its name where stems clash, else as much of the path as it takes."""
    labels = [stem_of(place) for place in places]
    depth = 0
    longest = max((len(place.parts) for place in places), default=0)
    while depth <= longest and (clashes := {label for label, n in Counter(labels).items() if n > 1}):
        depth += 1
        labels = [
            "/".join(place.parts[-depth:]) if label in clashes else label
            for label, place in zip(labels, places, strict=True)
        ]
    return labels


def open_bytes(place: Place) -> BinaryIO:
    """A binary stream of the file's content, unpacked if its name ends in .gz or .zst."""
    name = place.name.lower()
    if name.endswith(".gz") and isinstance(place, Path):
        return cast(BinaryIO, gzip.open(place))
    raw = place.open("rb") if isinstance(place, Path) else place.open()
    if name.endswith(".gz"):
        return cast(BinaryIO, gzip.open(raw))
    if name.endswith(".zst"):
        return cast(BinaryIO, pa.CompressedInputStream(raw, "zstd"))
    return cast(BinaryIO, raw)


def check_readable(place: Place) -> None:
    """Read the beginning of a file.

    Raises:
        DataError: it is empty or cannot be read.
    """
    with explained(place), open_bytes(place) as stream:
        empty = not stream.read(4096).strip()
    if empty:
        raise DataError(f"{place}: the file is empty", "give a file with content, or take it out of the configuration")


def digest_of(place: Place) -> str:
    """SHA-256 of a file's bytes as they are stored, hexadecimal.

    Raises:
        DataError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with explained(place), place.open("rb") if isinstance(place, Path) else place.open() as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_bytes(place: Place) -> bytes:
    """The whole content, unpacked.

    Raises:
        DataError: the file cannot be read, or is longer than `MAX_WHOLE_BYTES`.
    """
    with explained(place), open_bytes(place) as stream:
        content = bytes(stream.read(MAX_WHOLE_BYTES + 1))
    if len(content) > MAX_WHOLE_BYTES:
        raise DataError(
            f"{place}: more than {MAX_WHOLE_BYTES >> 20} MiB, and its format must be read as a whole",
            "divide the file, or write its records as JSONL, CSV or Parquet, which are read bit by bit",
        )
    return content


def read_text(place: Place, encoding: str = "auto") -> str:
    """The whole decoded text with "\\n" at the ends of lines; what cannot be decoded, and NUL, becomes U+FFFD.

    Raises:
        DataError: the file cannot be read, is too long to be read as a whole, or the encoding is not known.
    """
    content = read_bytes(place)
    name = encoding_of(place, encoding, content)
    return _as_text(io.BytesIO(content), name, place).read().replace("\0", REPLACEMENT)


def lines_of(place: Place, encoding: str = "auto") -> Iterator[str]:
    """The decoded lines with their "\\n"; what cannot be decoded, and NUL, becomes U+FFFD in its line.

    Of a line of more than `MAX_ROW_CHARS` characters comes the beginning, as a `CutLine`.

    Raises:
        DataError: the file cannot be read, or the encoding is not known.
    """
    name = encoding_of(place, encoding)
    with explained(place), open_bytes(place) as stream:
        text = _as_text(stream, name, place)
        held = ""
        while block := text.read(_BLOCK_CHARS):
            held += block.replace("\0", REPLACEMENT)
            cut = held.rfind("\n") + 1
            if cut:
                yield from _lines_in(held[:cut])
                held = held[cut:]
            elif len(held) > MAX_ROW_CHARS:
                yield CutLine(held[:MAX_ROW_CHARS])
                held = _after_line(text)
        yield from _lines_in(held)


def _lines_in(text: str) -> Iterator[str]:
    lines = io.StringIO(text, newline="\n")
    if len(text) <= MAX_ROW_CHARS:
        return lines
    return (CutLine(line[:MAX_ROW_CHARS]) if len(line.rstrip("\n")) > MAX_ROW_CHARS else line for line in lines)


def _after_line(text: io.TextIOWrapper) -> str:
    """What was read after the end of the line at hand."""
    while block := text.read(_BLOCK_CHARS):
        _, newline, after = block.partition("\n")
        if newline:
            return after
    return ""


def encoding_of(place: Place, encoding: str, content: bytes | None = None) -> str:
    """The codec to read a file with: that given, else that detected in its content.

    Raises:
        DataError: the file cannot be read.
    """
    if encoding != "auto":
        return encoding
    with explained(place), io.BytesIO(content) if content is not None else open_bytes(place) as stream:
        return detect_encoding(stream)


def page_text(place: Place, encoding: str = "auto") -> str:
    """The text of an HTML page, in the encoding that it declares if it decodes in that, else as detected.

    Raises:
        DataError: the file cannot be read, is too long to be read as a whole, or the encoding is not known.
    """
    content = read_bytes(place)
    declared = declared_encoding(content) if encoding == "auto" else ""
    try:
        return _newlines(content.decode(declared)) if declared else read_text(place, encoding)
    except (LookupError, UnicodeDecodeError):
        return read_text(place, encoding)


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _as_text(stream: BinaryIO, encoding: str, place: Place) -> io.TextIOWrapper:
    try:
        name = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
        return io.TextIOWrapper(stream, encoding=name, errors="replace")
    except LookupError:
        raise DataError(
            f"{place}: unknown encoding {encoding!r}", "set encoding to auto, utf-8, gb18030, big5 or utf-16"
        ) from None


class explained:
    """Turns faults of reading a file into a `DataError` that names it."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PermissionError):
            raise DataError(f"{self._place}: no permission to read it", f"run: chmod u+r '{self._place}'") from None
        if isinstance(error, (gzip.BadGzipFile, EOFError, zlib.error)):
            raise DataError(f"{self._place}: damaged gzip file: {error}", "fetch or pack the file again") from None
        if isinstance(error, UnicodeError):
            raise DataError(f"{self._place}: is not in the encoding given: {error}", "set encoding to auto") from None
        if isinstance(error, (OSError, pa.ArrowException)):
            cause = getattr(error, "strerror", None) or str(error)
            packed = self._place.name.lower().endswith(".zst")
            problem = "damaged zstd file" if packed else "cannot be read"
            fix = "fetch or pack the file again" if packed else "check the path"
            raise DataError(f"{self._place}: {problem}: {cause}", fix) from None
