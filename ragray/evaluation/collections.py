"""Test collections of retrieval: documents, queries, and judgements of which documents are relevant to which query.

In: a folder as BEIR lays it out (`corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv`), or with other files of queries
and judgements, each plain or compressed. Out: a `Collection`, with counts of all that took no part. It exists so that
search can be measured on data that others publish figures for, without a step of conversion.

Source: Thakur et al. 2021, "BEIR"; the formats of queries and judgements are also those of TREC and MS MARCO.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ragray.dataprep.sources import PACKED, explained, open_bytes
from ragray.errors import ConfigError, DataError
from ragray.schema import Passage

MAX_GRADE = 1000  # of a judgement: trec_eval keeps an array with a place for each
_BOM = b"\xef\xbb\xbf"
_PREFERRED_QRELS = ("qrels/test.tsv", "qrels.test.tsv")
_QRELS = ("qrels/*.tsv", "qrels/*.txt", "qrels*.tsv", "qrels*.txt")
_DOCUMENT = 'write it like {"_id": "d1", "title": "...", "text": "..."}'
_QUERY = 'write it like {"_id": "q1", "text": "..."}, or as the id, a tab and the text'
_JUDGEMENT = "write it as query, document and grade between tabs, or in TREC's form: query 0 document grade"


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents, the judged queries, and their judgements.

    A document that is judged and not in the corpus stays in `qrels`: it counts as relevant and not found, as it does
    for trec_eval, which never sees a corpus.
    """

    documents: tuple[Passage, ...]  # in the order of the corpus
    queries: dict[str, str]  # judged ones, in the order of their file: id -> text
    qrels: dict[str, dict[str, int]]  # of these queries: query -> document -> grade, relevant from 1
    queries_file: Path
    qrels_file: Path
    queries_read: int
    judgements_read: int
    of_unknown_queries: int  # judgements, left out
    of_unknown_documents: int  # judgements of `queries`, kept

    @property
    def without_relevant(self) -> int:
        """How many judged queries have no relevant document; each scores 0."""
        return sum(max(grades.values()) < 1 for grades in self.qrels.values())


def read_collection(folder: Path, queries: Path | None = None, qrels: Path | None = None) -> Collection:
    """Read a test collection.

    Args:
        folder: holds `corpus.jsonl` and, where they are not given, queries and judgements.
        queries: JSONL of `_id` or `id` and `text`, or lines of id, tab, text; by default the folder's `queries.jsonl`.
        qrels: lines of query, document and grade, or of TREC's four columns; by default the folder's `qrels/test.tsv`
            or `qrels.test.tsv`, else its only file of judgements.

    Raises:
        ConfigError: there are several files of judgements to choose from.
        DataError: a file is missing or cannot be used (its line is named), or no document, query or relevant judgement
            is left.
    """
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {problem}", "name the folder that holds corpus.jsonl, queries.jsonl and qrels")
    corpus_file = _only_file(folder, "corpus.jsonl", "add it: one document on each line")
    queries_file = queries or _only_file(folder, "queries.jsonl", "name one with --queries FILE")
    qrels_file = qrels or _qrels_file(folder)
    judgements = read_qrels(qrels_file)
    texts = read_queries(queries_file)
    documents = read_documents(corpus_file)
    known = {query: grades for query, grades in judgements.items() if query in texts}
    doc_ids = {document.doc_id for document in documents}
    of_unknown_documents = sum(document not in doc_ids for grades in known.values() for document in grades)
    if not any(grade > 0 and document in doc_ids for grades in known.values() for document, grade in grades.items()):
        raise DataError(
            f"{qrels_file}: no document of {corpus_file} is judged relevant to a query of {queries_file}",
            f"choose judgements of these files with --qrels FILE; {_ids_like(judgements, texts, doc_ids)}",
        )
    read, kept = (sum(map(len, found.values())) for found in (judgements, known))
    return Collection(
        documents=tuple(documents),
        queries={query: text for query, text in texts.items() if query in known},
        qrels=known,
        queries_file=queries_file,
        qrels_file=qrels_file,
        queries_read=len(texts),
        judgements_read=read,
        of_unknown_queries=read - kept,
        of_unknown_documents=of_unknown_documents,
    )


def read_documents(path: Path) -> list[Passage]:
    """The documents of a JSONL file with `_id` or `id`, `text`, and `title` or none.

    Raises:
        DataError: the file is missing or empty, or a line is no document or repeats an id.
    """
    documents: dict[str, Passage] = {}
    for where, line in _lines(path):
        entry = _entry(line, where, _DOCUMENT)
        doc_id = _id(entry, where, _DOCUMENT)
        if doc_id in documents:
            raise _stands_twice(where, doc_id)
        title = "" if entry.get("title") is None else _text(entry, "title", where, _DOCUMENT)
        text = _text(entry, "text", where, _DOCUMENT)
        documents[doc_id] = Passage(doc_id, title, text, lang="other", source=path.name, kind="document")
    if not documents:
        raise DataError(f"{path}: no documents", f"{_DOCUMENT} on each line")
    return list(documents.values())


def read_queries(path: Path) -> dict[str, str]:
    """Id -> text, of JSONL with `_id` or `id` and `text`, or of lines with id, tab and text.

    Raises:
        DataError: the file is missing or empty, or a line is no query or repeats an id.
    """
    queries: dict[str, str] = {}
    as_json: bool | None = None  # the first line decides
    for where, line in _lines(path):
        if as_json is None:
            as_json = line.lstrip().startswith("{")
        if as_json:
            entry = _entry(line, where, _QUERY)
            query_id, text = _id(entry, where, _QUERY), _text(entry, "text", where, _QUERY)
        else:
            query_id, tab, text = line.partition("\t")
            if not tab or not query_id.strip():
                raise DataError(f"{where}: not a query", _QUERY)
        if query_id in queries:
            raise _stands_twice(where, query_id)
        queries[query_id] = text
    if not queries:
        raise DataError(f"{path}: no queries", f"{_QUERY}, one on each line")
    return queries


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Query -> document -> grade, of BEIR's three columns, with a header or none, or of TREC's four.

    Raises:
        DataError: the file is missing or empty, or a line is no judgement or contradicts one before it.
    """
    qrels: dict[str, dict[str, int]] = {}
    header_may_come = True
    for where, line in _lines(path):
        cells = line.split("\t")
        if len(cells) not in (3, 4):
            cells = line.split()
        if len(cells) not in (3, 4):
            raise DataError(f"{where}: {len(cells)} columns", _JUDGEMENT)
        query_id, document, last = cells[0], cells[-2], cells[-1]
        is_header = header_may_come and not any(map(str.isdigit, last))
        header_may_come = False
        if is_header:
            continue
        grades = qrels.setdefault(query_id, {})
        grade = _grade(last, where)
        if grades.setdefault(document, grade) != grade:
            raise DataError(
                f"{where}: query {query_id!r} judges document {document!r} again, {grade} after {grades[document]}",
                "keep one of the two lines",
            )
    if not qrels:
        raise DataError(f"{path}: no judgements", f"{_JUDGEMENT}; one on each line")
    return qrels


def check_trec_ids(collection: Collection) -> None:
    """See that a TREC run, whose columns are separated by spaces, can hold the ids.

    Raises:
        DataError: an id has white space in it.
    """
    for kind, ids in (("query", collection.queries), ("document", (d.doc_id for d in collection.documents))):
        for id_ in ids:
            if id_.split() != [id_]:
                raise DataError(
                    f"the {kind} id {id_!r} has white space, which a TREC run cannot hold",
                    "leave out --run, or give it an id without white space",
                )


def _only_file(folder: Path, name: str, fix: str) -> Path:
    """The file of this name in a folder, or the compressed one."""
    candidates = [folder / f"{name}{ending}" for ending in ("", *PACKED)]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(f"{folder}: holds no {name} (nor .gz or .zst of it)", fix)


def _qrels_file(folder: Path) -> Path:
    """The judgements of a folder that a person would take without asking."""
    found = {p for pattern in _QRELS for ending in ("", *PACKED) for p in folder.glob(pattern + ending) if p.is_file()}
    files = {_plain_name(path): path for path in sorted(found, reverse=True)}  # of a file and its .gz, the file
    preferred = [files[name] for name in map(str, (folder / name for name in _PREFERRED_QRELS)) if name in files]
    chosen = preferred or list(files.values())
    if not chosen:
        raise DataError(f"{folder}: holds no judgements (qrels/test.tsv or qrels*.tsv)", "name them with --qrels FILE")
    if len(chosen) > 1:
        listed = ", ".join(sorted(map(str, chosen)))
        raise ConfigError(f"{folder}: several files of judgements: {listed}", "choose one with --qrels FILE")
    return chosen[0]


def _plain_name(path: Path) -> str:
    return str(path.with_suffix("") if path.name.endswith(PACKED) else path)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(`file:line`, text) of the lines that are not blank.

    Raises:
        DataError: there is no such file, it cannot be read, or is not UTF-8.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder", "name a file in it")
    if not path.exists():
        raise DataError(f"{path}: no such file (looked from {Path.cwd()})", "name an existing file")
    with explained(path), open_bytes(path) as stream:
        for number, line in enumerate(io.BufferedReader(cast(io.RawIOBase, stream)), 1):
            where = f"{path}:{number}"
            try:
                text = (line.removeprefix(_BOM) if number == 1 else line).decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8: {error.reason}", "write the file in UTF-8") from None
            if text.strip():
                yield where, text


def _entry(line: str, where: str, form: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON object: {error}", form) from None
    if not isinstance(entry, dict):
        raise DataError(f"{where}: not a JSON object", form)
    return entry


def _id(entry: Mapping[str, Any], where: str, form: str) -> str:
    """The id of an entry; a whole number becomes its digits."""
    value = entry.get("_id", entry.get("id"))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: _id (or id) is missing or not text", form)
    return _whole(value)


def _text(entry: Mapping[str, Any], key: str, where: str, form: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} is missing or not text", form)
    return _whole(value)


def _whole(text: str) -> str:
    """Text with "?" for halves of surrogate pairs, which JSON can spell and Arrow cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _grade(text: str, where: str) -> int:
    try:
        grade = int(text)
    except ValueError:
        raise DataError(f"{where}: the grade {text!r} is not a whole number", _JUDGEMENT) from None
    if abs(grade) > MAX_GRADE:
        raise DataError(f"{where}: the grade {grade} is beyond {MAX_GRADE}", "use small grades, such as 0 to 3")
    return grade


def _stands_twice(where: str, id_: str) -> DataError:
    return DataError(f"{where}: the id {id_!r} stands twice", "give each line its own id")


def _ids_like(qrels: Mapping[str, Mapping[str, int]], queries: Mapping[str, str], doc_ids: set[str]) -> str:
    """An example of each kind of id, to see how they differ."""
    query, grades = next(iter(qrels.items()))
    return (
        f"they judge ids like {query!r} and {next(iter(grades))!r}, "
        f"the files hold ids like {next(iter(queries))!r} and {min(doc_ids)!r}"
    )
