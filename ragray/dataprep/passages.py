"""Splitting documents into passages.

In: a Markdown or plain text and its name. Out: `Passage`s of a limited length, each under the path of its
headings. A fenced code block and a row of a table are never divided, even where they are longer.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ragray.config import DataConfig, DocumentSourceConfig
from ragray.dataprep.language import detect_language
from ragray.dataprep.normalize import clean_line, normal_form, remove_invisible
from ragray.dataprep.qa_text import sections
from ragray.dataprep.sources import InputFile, check_readable, expand, read_text, unique_labels
from ragray.errors import DataError
from ragray.schema import Passage

ENDINGS = (".md", ".markdown", ".txt")

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FENCED = re.compile(r"(^[^\S\n]*(?:```|~~~).*?(?:^[^\S\n]*(?:```|~~~)[^\S\n]*$\n?|\Z))", re.MULTILINE | re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[。！？])|(?<=[.!?])(?=\s)")
_BOUNDARY = re.compile(r"(?<=[\s，,;；、])")


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """One document; `stem` opens the ids of its passages."""

    file: InputFile
    stem: str
    encoding: str


def document_files(sources: Collection[DocumentSourceConfig]) -> list[DocumentFile]:
    """All documents that the configuration names, in order; a file that two sources name is read once.

    Raises:
        DataError: a document is missing or empty.
    """
    found: dict[Path, tuple[Path, str, str]] = {}
    for n, source in enumerate(sources):
        root = _root_of(source.path)
        for path in expand(source.path, ENDINGS, f"data.documents.{n}.path"):
            check_readable(path)
            name = path.relative_to(root) if path.is_relative_to(root) else path
            stem = str(name).removesuffix(".gz")
            found.setdefault(path.resolve(), (path, str(Path(stem).with_suffix("")), source.encoding))
    labels = unique_labels([path for path, _, _ in found.values()])
    stems = [stem for _, stem, _ in found.values()]
    return [
        DocumentFile(
            InputFile(path, str(path), label), stem if stems.count(stem) == 1 else str(path).strip("/"), encoding
        )
        for (path, stem, encoding), label in zip(found.values(), labels, strict=True)
    ]


def _root_of(pattern: str) -> Path:
    """The folder that document names are relative to: the part of the path before any wildcard."""
    path = Path(pattern)
    if path.is_dir():
        return path
    while glob.has_magic(str(path)):
        path = path.parent
    return path if path.is_dir() else path.parent


def read_passages(documents: Sequence[DocumentFile], settings: DataConfig) -> list[Passage]:
    """The passages of all documents, in order.

    Raises:
        DataError: a document cannot be read or holds no text.
    """
    passages: list[Passage] = []
    for document in documents:
        found = split_document(read_text(document.file.path, document.encoding), document, settings)
        if not found:
            raise DataError(f"{document.file.source}: holds no text", "take it out of data.documents")
        passages += found
    return passages


def split_document(text: str, document: DocumentFile, settings: DataConfig) -> list[Passage]:
    """The passages of one document, numbered from 1: cut at headings, then by length with overlap."""
    text = _COMMENT.sub("", _FRONT_MATTER.sub("", remove_invisible(text)))
    path: dict[int, str] = {}
    passages: list[Passage] = []
    for _, level, heading, body in sections(text.splitlines(keepends=True)):
        if level:
            path = {depth: title for depth, title in path.items() if depth < level} | {level: clean_line(heading)}
        title = " > ".join(path[depth] for depth in sorted(path)) or Path(document.stem).name
        for piece in split_text("".join(body), settings.passage_chars, settings.passage_overlap_chars):
            number = len(passages) + 1
            lang = detect_language(title + "\n" + piece)
            passages.append(Passage(f"{document.stem}#{number}", title, piece, lang, document.file.source, "document"))
    return passages


def split_text(text: str, limit: int, overlap: int) -> list[str]:
    """Pieces of at most `limit` characters that start with up to `overlap` characters of the piece before.

    Pieces end at lines, sentences or words; a single piece that may not be divided can be longer.
    """
    pieces: list[str] = []
    current: list[str] = []
    fresh = False  # whether `current` holds more than overlap
    for unit in _units(text, limit):
        if fresh and len("".join([*current, unit]).strip()) > limit:
            pieces.append("".join(current).strip())
            current = _tail(current, min(overlap, limit - len(unit)))
            fresh = False
        current.append(unit)
        fresh = fresh or bool(unit.strip())
    if fresh:
        pieces.append("".join(current).strip())
    return pieces


def _tail(units: Sequence[str], limit: int) -> list[str]:
    """The last whole units with at most `limit` characters, none of them code."""
    taken: list[str] = []
    for unit in reversed(units):
        if sum(map(len, taken)) + len(unit) > limit or _FENCED.match(unit):
            break
        taken.insert(0, unit)
    return taken


def _units(text: str, limit: int) -> Iterator[str]:
    """What is kept together: fenced code, rows of tables, sentences, and words of overlong sentences."""
    for n, part in enumerate(_FENCED.split(text)):
        if n % 2:
            yield part if part.endswith("\n") else part + "\n"
            continue
        for line in normal_form(part).splitlines(keepends=True):
            if line.lstrip().startswith("|") or len(line) <= 1:
                yield line
                continue
            for sentence in _SENTENCE_END.split(line):
                yield from _pieces(sentence, limit)


def _pieces(sentence: str, limit: int) -> Iterator[str]:
    """A sentence, divided at words or clauses where it is longer than `limit`, else anywhere."""
    if len(sentence) <= limit:
        if sentence:
            yield sentence
        return
    for part in _BOUNDARY.split(sentence):
        for start in range(0, len(part), limit):
            yield part[start : start + limit]
