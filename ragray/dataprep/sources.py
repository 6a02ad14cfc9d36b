"""Finding and opening input files.

In: a path from the configuration (file, folder or glob) and an encoding. Out: files in a fixed order,
each with a short unique label for ids, and their decoded lines. It exists so that every format fails
in the same words where a file is missing, empty or unreadable.
"""

from __future__ import annotations

import glob
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ragray.errors import DataError

REPLACEMENT = "\ufffd"  # stands where bytes could not be decoded

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_HIGH_PAIR = re.compile(rb"[\xa1-\xfe]{2}")
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file: `source` is its path as the user gave it, `label` opens the ids of its records."""

    path: Path
    source: str
    label: str


def expand(pattern: str, endings: Sequence[str], setting: str) -> list[Path]:
    """The files that a path, folder or glob names, sorted.

    Args:
        pattern: as in the configuration.
        endings: file endings, such as ".csv", that are taken from folders and globs; ".gz" may follow each.
        setting: dotted name of the setting, for errors.

    Raises:
        DataError: there is no such file, or none in the folder.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and ending_of(p) in endings)
        problem = f"{pattern}: no file in this folder ends in {', '.join(endings)} (or .gz of these)"
    else:
        matches = (Path(p) for p in glob.iglob(pattern, recursive=True))  # noqa: PTH207  (patterns may be absolute)
        found = sorted(p for p in matches if p.is_file() and ending_of(p) in endings)
        is_glob = glob.has_magic(pattern)
        problem = f"{pattern}: no file matches" if is_glob else f"{pattern}: no such file or folder"
    if not found:
        raise DataError(
            f"{setting}: {problem} (looked from {Path.cwd()})", f"set {setting} to an existing file, folder or glob"
        )
    return found


def ending_of(path: Path) -> str:
    """The lower-case file ending without ".gz": "faq.CSV.gz" gives ".csv"."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def stem_of(path: Path) -> str:
    """The file name without its ending and ".gz"."""
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return Path(name).stem


def unique_labels(paths: Sequence[Path]) -> list[str]:
    """A label for each path: its stem, its name where stems clash, else as much of the path as it takes."""
    labels = [stem_of(path) for path in paths]
    depth = 0
    longest = max((len(path.parts) for path in paths), default=0)
    while depth <= longest and (clashes := {label for label, n in Counter(labels).items() if n > 1}):
        depth += 1
        labels = [
            "/".join(path.parts[-depth:]) if label in clashes else label
            for label, path in zip(labels, paths, strict=True)
        ]
    return labels


def open_bytes(path: Path) -> BinaryIO:
    """A binary stream of the file's content, unpacked if its name ends in .gz."""
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def check_readable(path: Path) -> None:
    """Read the beginning of a file.

    Raises:
        DataError: it is empty or cannot be read.
    """
    with explained(path), open_bytes(path) as stream:
        empty = not stream.read(4096).strip()
    if empty:
        raise DataError(f"{path}: the file is empty", "give a file with content, or take it out of the configuration")


def read_text(path: Path, encoding: str = "auto") -> str:
    """The whole decoded text; what cannot be decoded becomes U+FFFD.

    Raises:
        DataError: the file cannot be read.
    """
    return "".join(lines_of(path, encoding))


def lines_of(path: Path, encoding: str = "auto") -> Iterator[str]:
    """The decoded lines with their "\\n"; what cannot be decoded becomes U+FFFD in its line.

    Raises:
        DataError: the file cannot be read, or the encoding is not known.
    """
    with explained(path):
        name = detect_encoding(path) if encoding == "auto" else encoding
        with open_bytes(path) as stream:
            try:
                text = io.TextIOWrapper(stream, encoding=name, errors="replace")
            except LookupError:
                raise DataError(
                    f"{path}: unknown encoding {encoding!r}", "set encoding to auto, utf-8 or gb18030"
                ) from None
            yield from text


def detect_encoding(path: Path) -> str:
    """The encoding of a file: its byte order mark, else UTF-8 or GB18030, whichever its lines decode in.

    Lines decide by majority, so that one damaged line does not change how the others are read. Text that
    is neither is left to charset-normalizer.
    """
    with open_bytes(path) as stream:
        head = stream.read(4)
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    lines, utf8, gb18030 = _count_decodable(path)
    if utf8 * 2 >= lines:
        return "utf-8"
    return "gb18030" if gb18030 * 2 >= lines else _guess(path)


def _count_decodable(path: Path) -> tuple[int, int, int]:
    """Lines with bytes beyond ASCII, and how many of them are valid UTF-8 and plausible GB18030."""
    lines = utf8 = gb18030 = 0
    with open_bytes(path) as stream:
        for line in stream:
            if line.isascii():
                continue
            lines += 1
            if _decodes(line, "utf-8"):
                utf8 += 1
            elif _decodes(line, "gb18030") and _is_paired(line):
                gb18030 += 1
    return lines, utf8, gb18030


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_paired(line: bytes) -> bool:
    """Whether high bytes mostly stand in pairs, as in Chinese text and unlike a Latin text with accents."""
    return 4 * len(_HIGH_PAIR.findall(line)) >= len(_HIGH_BYTE.findall(line))


def _guess(path: Path) -> str:
    from charset_normalizer import from_bytes

    with open_bytes(path) as stream:
        best = from_bytes(stream.read(_SAMPLE_BYTES)).best()
    return best.encoding if best is not None else "utf-8"


class explained:
    """Turns faults of reading a file into a `DataError` that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PermissionError):
            raise DataError(f"{self._path}: no permission to read it", f"run: chmod u+r '{self._path}'") from None
        if isinstance(error, (gzip.BadGzipFile, EOFError, zlib.error)):
            raise DataError(f"{self._path}: damaged gzip file: {error}", "fetch or pack the file again") from None
        if isinstance(error, OSError):
            raise DataError(f"{self._path}: cannot be read: {error.strerror or error}", "check the path") from None
