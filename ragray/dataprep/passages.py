"""Splitting documents into passages.

In: a document: Markdown, plain text, HTML, PDF or DOCX. Out: `Passage`s of a limited length, each under the path of
its headings. A fenced code block and a row of a table are never divided, even where they are longer.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from ragray.config_data import DataConfig, DocumentSourceConfig
from ragray.dataprep.language import detect_language
from ragray.dataprep.normalize import clean_line, normal_form, remove_invisible
from ragray.dataprep.office import outline_of
from ragray.dataprep.outline import Section, sections
from ragray.dataprep.remote import is_uri, parse_uri
from ragray.dataprep.sources import (
    InputFile,
    Place,
    check_readable,
    ending_of,
    expand,
    identity_of,
    read_text,
    stem_of,
    unique_labels,
)
from ragray.errors import DataError
from ragray.schema import Passage

ENDINGS = (".md", ".markdown", ".txt", ".html", ".htm", ".pdf", ".docx")

_OUTLINED = {".html": "html", ".htm": "html", ".pdf": "pdf", ".docx": "docx"}
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
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
    found: dict[Place, tuple[Place, str, str]] = {}
    for n, source in enumerate(sources):
        root = _root_of(source.path)
        for path in expand(source.path, ENDINGS, f"data.documents.{n}.path"):
            check_readable(path)
            found.setdefault(identity_of(path), (path, _stem(path, root), source.encoding))
    labels = unique_labels([path for path, _, _ in found.values()])
    stems = [stem for _, stem, _ in found.values()]
    return [
        DocumentFile(
            InputFile(path, str(path), label), stem if stems.count(stem) == 1 else str(path).strip("/"), encoding
        )
        for (path, stem, encoding), label in zip(found.values(), labels, strict=True)
    ]


def _root_of(pattern: str) -> PurePath:
    """The folder that document names are relative to: the part of the path before any wildcard."""
    if is_uri(pattern):
        path = PurePosixPath(parse_uri(pattern).key)
        while glob.has_magic(str(path)):
            path = path.parent
        return path
    local = Path(pattern)
    if local.is_dir():
        return local
    while glob.has_magic(str(local)):
        local = local.parent
    return local if local.is_dir() else local.parent


def _stem(place: Place, root: PurePath) -> str:
    """A document's name without its endings, below the folder that was given."""
    path = place if isinstance(place, Path) else PurePosixPath(place.key)
    inner = path.relative_to(root) if path.is_relative_to(root) and path != root else PurePath(path.name)
    return str(inner.parent / stem_of(place))


def read_passages(documents: Sequence[DocumentFile], settings: DataConfig) -> list[Passage]:
    """The passages of all documents, in order.

    Raises:
        DataError: a document cannot be read or holds no text.
    """
    passages: list[Passage] = []
    for document in documents:
        found = _split_sections(_sections_of(document), document, settings)
        if not found:
            raise DataError(f"{document.file.source}: holds no text", "take it out of data.documents")
        passages += found
    return passages


def _sections_of(document: DocumentFile) -> Iterable[Section]:
    format_ = _OUTLINED.get(ending_of(document.file.path))
    if format_ is None:
        return _sections_of_text(read_text(document.file.path, document.encoding))
    return outline_of(document.file.path, format_, document.encoding).sections


def _sections_of_text(text: str) -> Iterable[Section]:
    text = _without_comments(_FRONT_MATTER.sub("", remove_invisible(text)))
    return sections(text.splitlines(keepends=True))


def _without_comments(text: str) -> str:
    """`text` without HTML comments; one that is never closed is text."""
    kept, start = [], 0
    while (begin := text.find("<!--", start)) >= 0 and (end := text.find("-->", begin + 4)) >= 0:
        kept.append(text[start:begin])
        start = end + 3
    return "".join([*kept, text[start:]])


def _split_sections(found: Iterable[Section], document: DocumentFile, settings: DataConfig) -> list[Passage]:
    path: dict[int, str] = {}
    passages: list[Passage] = []
    for section in found:
        level = section.level
        if level:
            path = {depth: title for depth, title in path.items() if depth < level} | {level: clean_line(section.title)}
        title = " > ".join(path[depth] for depth in sorted(path)) or Path(document.stem).name
        body = remove_invisible("".join(section.body))
        for piece in split_text(body, settings.passage_chars, settings.passage_overlap_chars):
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
