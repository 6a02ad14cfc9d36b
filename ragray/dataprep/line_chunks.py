"""A text file in chunks of whole lines, in UTF-8, and cut into parts that can be read apart.

In: a file or a range of its bytes. Out: `Chunk`s of some megabytes; `FilePart`s with the numbers of their first rows.
A line ends at "\n" alone. Memory stays at a few times `MAX_LINE_BYTES` however long a line is.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ragray.dataprep.encoding import LINE_SAFE
from ragray.dataprep.faq_file import FaqFile, FilePart
from ragray.dataprep.sources import (
    MAX_ROW_CHARS,
    CutLine,
    encoding_of,
    explained,
    is_packed,
    lines_of,
    open_bytes,
)

MAX_LINE_BYTES = 4 * MAX_ROW_CHARS  # a character has at most four

_CHUNK_BYTES = 2 << 20
_SEARCHED_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines in UTF-8, the last with its "\\n" too; or the beginning of one line that is too long."""

    line: int  # number of its first line
    content: bytes
    lines: int
    is_cut: bool = False


def chunks_of(part: FilePart) -> Iterator[Chunk]:
    """The lines of a part in UTF-8, in chunks of some megabytes.

    Raises:
        DataError: the file cannot be read.
    """
    place = part.file.file.path
    encoding = part.encoding or encoding_of(place, part.file.encoding)
    codec = _codec(encoding)
    if codec not in LINE_SAFE:
        yield from _text_chunks(lines_of(place, encoding), part.first_line)
        return
    with explained(place), open_bytes(place) as stream:
        if part.start:
            stream.seek(part.start)
        for chunk in _byte_chunks(stream, None if part.end is None else part.end - part.start, part.first_line):
            yield chunk if codec.startswith("utf-8") else _in_utf8(chunk, codec)


def _codec(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        return encoding  # lines_of says what is wrong


def _byte_chunks(stream: BinaryIO, left: int | None, line: int) -> Iterator[Chunk]:
    """Chunks of whole lines of the next `left` bytes of a stream."""
    held, is_first = b"", True
    while block := stream.read(_CHUNK_BYTES if left is None else min(_CHUNK_BYTES, left)):
        left = None if left is None else left - len(block)
        held = (held + block).removeprefix(_BOM) if is_first and line == 1 else held + block
        is_first = False
        cut = held.rfind(b"\n") + 1
        if cut:
            yield (chunk := _chunk(line, held[:cut]))
            line, held = line + chunk.lines, held[cut:]
        elif len(held) > MAX_LINE_BYTES:
            yield Chunk(line, held[:MAX_LINE_BYTES], 1, is_cut=True)
            held, left = _after_line(stream, left)
            line += 1
    if held:
        yield _chunk(line, held + b"\n")


def _after_line(stream: BinaryIO, left: int | None) -> tuple[bytes, int | None]:
    """What stands after the end of the line that a stream is in; how many bytes are left then."""
    while block := stream.read(_CHUNK_BYTES if left is None else min(_CHUNK_BYTES, left)):
        left = None if left is None else left - len(block)
        _, newline, after = block.partition(b"\n")
        if newline:
            return after, left
    return b"", left


def _chunk(line: int, content: bytes) -> Chunk:
    return Chunk(line, content, content.count(b"\n"))


def _in_utf8(chunk: Chunk, codec: str) -> Chunk:
    try:
        text = chunk.content.decode(codec)
    except UnicodeDecodeError:  # line by line, so that a fault stays in its line
        text = "\n".join(line.decode(codec, "replace") for line in chunk.content.split(b"\n"))
    return Chunk(chunk.line, text.encode("utf-8", "replace"), chunk.lines, chunk.is_cut)


def _text_chunks(lines: Iterator[str], number: int) -> Iterator[Chunk]:
    """Chunks from decoded lines."""
    held: list[str] = []
    size = 0
    for line in lines:
        is_cut = isinstance(line, CutLine)
        if held and (is_cut or size >= _CHUNK_BYTES):
            yield Chunk(number, "".join(held).encode("utf-8", "replace"), len(held))
            number, held, size = number + len(held), [], 0
        if is_cut:
            yield Chunk(number, line.encode("utf-8", "replace"), 1, is_cut=True)
            number += 1
        else:
            held.append(line if line.endswith("\n") else line + "\n")
            size += len(line)
    if held:
        yield Chunk(number, "".join(held).encode("utf-8", "replace"), len(held))


def line_parts(file: FaqFile, part_bytes: int) -> list[FilePart]:
    """Ranges of about `part_bytes` of a file of lines, with the numbers of their first rows (lines that are not blank).

    Raises:
        DataError: the file cannot be read.
    """
    place = file.file.path
    encoding = encoding_of(place, file.encoding)
    codec = _codec(encoding)
    with explained(place), open_bytes(place) as stream:
        if is_packed(place) or codec not in LINE_SAFE:
            return [FilePart(file, encoding=encoding)]
        cuts = _cuts(stream, part_bytes)
        if len(cuts) <= 2:
            return [FilePart(file, encoding=encoding)]
        parts, ordinal, line = [], 1, 1
        for start, end in itertools.pairwise(cuts):
            parts.append(FilePart(file, start, end, ordinal, line, encoding))
            stream.seek(start)
            for chunk in _byte_chunks(stream, end - start, line):
                ordinal += chunk.lines - _blank_lines(chunk, codec)
                line += chunk.lines
    return parts


def _cuts(stream: BinaryIO, part_bytes: int) -> list[int]:
    """Where the parts of a file begin, and its end: after the first line break from each multiple of `part_bytes`."""
    size = stream.seek(0, 2)
    cuts = [0]
    while size - cuts[-1] > part_bytes + part_bytes // 2:
        at = cuts[-1] + part_bytes
        stream.seek(at - 1)
        while block := stream.read(_SEARCHED_BYTES):
            if (newline := block.find(b"\n")) >= 0:
                at += newline
                break
            at += len(block)
        if at >= size:
            break
        cuts.append(at)
    return [*cuts, size]


def _blank_lines(chunk: Chunk, codec: str) -> int:
    """How many lines hold white space alone. Nearly all begin with a sign of ASCII, which settles it."""
    if chunk.is_cut:
        return 0
    signs = np.frombuffer(chunk.content, np.uint8)
    ends = np.flatnonzero(signs == ord("\n"))
    starts = np.concatenate(([0], ends[:-1] + 1))
    doubtful = np.flatnonzero((signs[starts] <= ord(" ")) | (signs[starts] > ord("~")))
    lines = (chunk.content[starts[n] : ends[n]] for n in doubtful.tolist())
    return sum(len(line) <= MAX_LINE_BYTES and not line.decode(codec, "replace").strip() for line in lines)
