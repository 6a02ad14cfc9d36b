"""Test collections: every layout gives the same collection, all that takes no part is counted, mistakes are named."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ragray.errors import ConfigError, DataError, RagrayError
from ragray.evaluation.collections import (
    check_trec_ids,
    read_collection,
    read_documents,
    read_qrels,
    read_queries,
)


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pack(path: Path) -> None:
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def failure(call, *arguments) -> RagrayError:
    with pytest.raises(RagrayError) as caught:
        call(*arguments)
    assert caught.value.fix
    return caught.value


def test_a_beir_folder(beir):
    collection = read_collection(beir)
    assert [(d.doc_id, d.title, d.text) for d in collection.documents] == [
        ("a", "", "zebra zebra zebra"),
        ("b", "", "zebra lion tiger"),
        ("c", "", "tiger"),
        ("d", "Lions", "of the savanna"),
    ]
    assert list(collection.queries.items()) == [("q2", "zebras"), ("q1", "lion")]
    assert collection.qrels == {"q2": {"b": 2, "a": 1, "c": 1, "z": 1}, "q1": {"b": 1, "d": 0}}
    assert (collection.queries_read, collection.judgements_read) == (3, 7)
    assert (collection.of_unknown_queries, collection.of_unknown_documents) == (1, 1)
    assert collection.without_relevant == 0


def test_compressed_or_not_it_is_the_same_collection(beir):
    plain = read_collection(beir)
    for path in [*beir.glob("*.jsonl"), *beir.glob("qrels/*")]:
        pack(path)
    packed = read_collection(beir)
    assert packed.qrels_file.name == "test.tsv.gz"
    same = {"queries_file": plain.queries_file, "qrels_file": plain.qrels_file}
    renamed = tuple(replace(d, source="corpus.jsonl") for d in packed.documents)
    assert replace(packed, documents=renamed, **same) == plain


def test_of_a_file_and_its_packed_copy_the_file_is_read(beir):
    for path in (beir / "qrels" / "test.tsv", beir / "corpus.jsonl"):
        written(path.with_name(path.name + ".gz"), b"damaged")
    assert read_collection(beir).qrels_file == beir / "qrels" / "test.tsv"


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq 1\td 1\t2\nq2\td2\t-1\n",
        "q 1\td 1\t2\nq2\td2\t-1",
        "query-id\tcorpus-id\tscore\r\nq 1\td 1\t2\r\n\r\nq2\td2\t-1\r\n",
        "\ufeffquery\titer\tdoc\trel\nq 1\t0\td 1\t2\nq2\t0\td2\t-1\n",
        "q 1\t0\td 1\t2\nq 1\t0\td 1\t2\nq2 0 d2 -1\n",
    ],
)
def test_forms_of_judgements(tmp_path, text):
    assert read_qrels(written(tmp_path / "qrels", text)) == {"q 1": {"d 1": 2}, "q2": {"d2": -1}}


def test_trec_judgements_between_any_white_space(tmp_path):
    assert read_qrels(written(tmp_path / "qrels", "101 0  FT-1 3\n101 0\tFT-2 0\n")) == {"101": {"FT-1": 3, "FT-2": 0}}


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "1", "text": "one\\ttwo"}\n{"_id": 2, "id": "x", "text": ""}\n',
        '\ufeff\n{"_id": "1", "text": "one\\ttwo"}\r\n\r\n{"id": 2, "text": ""}',
        "1\tone\ttwo\n2\t\n",
    ],
)
def test_forms_of_queries(tmp_path, text):
    assert read_queries(written(tmp_path / "queries", text)) == {"1": "one\ttwo", "2": ""}


def test_text_that_arrow_cannot_hold_is_made_whole(tmp_path):
    path = written(tmp_path / "corpus", '{"id": "a\\ud800", "title": "\\ud83d\\ude00", "text": "x\\ud800\\u0000"}')
    (document,) = read_documents(path)
    assert (document.doc_id, document.title, document.text) == ("a?", "😀", "x?\0")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"text": "x"}', "_id (or id) is missing"),
        ('{"_id": " ", "text": "x"}', "_id (or id) is missing"),
        ('{"_id": true, "text": "x"}', "_id (or id) is missing"),
        ('{"_id": "b"}', "text is missing"),
        ('{"_id": "b", "text": null}', "text is missing"),
        ('{"_id": "b", "text": "x", "title": 3}', "title is missing or not text"),
        ('{"_id": "a", "text": "again"}', "the id 'a' stands twice"),
        (b'{"_id": "b", "text": "\xff"}', "not UTF-8"),
    ],
)
def test_broken_documents_are_named(tmp_path, line, problem):
    line = line if isinstance(line, bytes) else line.encode()
    path = written(tmp_path / "corpus.jsonl", b'{"_id": "a", "text": "x"}\n\n' + line)
    error = failure(read_documents, path)
    assert isinstance(error, DataError) and error.message.startswith(f"{path}:3: {problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"_id": "a", "text": "x"}\nb\tx', "2: not a JSON object"),
        ('a\tx\n{"_id": "b", "text": "x"}', "2: not a query"),
        ("\tx", "1: not a query"),
        ("a\tx\na\ty", "2: the id 'a' stands twice"),
        ('{"_id": "a", "text": "x"}\n{"id": "a", "text": "y"}', "2: the id 'a' stands twice"),
    ],
)
def test_broken_queries_are_named(tmp_path, text, problem):
    path = written(tmp_path / "queries", text)
    error = failure(read_queries, path)
    assert isinstance(error, DataError) and error.message.startswith(f"{path}:{problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("q\td\n", "1: 2 columns"),
        ("q 0 d 1 x\n", "1: 5 columns"),
        ("q\td\tscore\nq\td\tscore\n", "2: the grade 'score' is not a whole number"),
        ("q\td\t0.5\n", "1: the grade '0.5' is not a whole number"),
        ("q\td\t1001\n", "1: the grade 1001 is beyond 1000"),
        ("q\td\t1\nq\te\t1\nq\td\t2\n", "3: query 'q' judges document 'd' again, 2 after 1"),
    ],
)
def test_broken_judgements_are_named(tmp_path, text, problem):
    path = written(tmp_path / "qrels", text)
    error = failure(read_qrels, path)
    assert isinstance(error, DataError) and error.message.startswith(f"{path}:{problem}")


@pytest.mark.parametrize("read", [read_documents, read_queries, read_qrels])
@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_files_with_nothing_in_them(tmp_path, read, content):
    assert ": no " in failure(read, written(tmp_path / "file", content)).message


def test_judgements_that_are_a_header_alone(tmp_path):
    assert "no judgements" in failure(read_qrels, written(tmp_path / "qrels", "query-id\tcorpus-id\tscore\n")).message


@pytest.mark.parametrize("read", [read_documents, read_queries, read_qrels])
def test_files_that_cannot_be_read(tmp_path, read):
    assert "no such file" in failure(read, tmp_path / "absent").message
    assert "is a folder" in failure(read, tmp_path).message
    packed = gzip.compress(json.dumps({"id": "a", "text": "x"}).encode())
    assert "damaged gzip" in failure(read, written(tmp_path / "cut.gz", packed[:-9])).message
    assert "damaged gzip" in failure(read, written(tmp_path / "not.gz", b"plain")).message


def test_folders_that_hold_no_collection(beir, tmp_path):
    assert "no such folder" in failure(read_collection, tmp_path / "absent").message
    assert "not a folder" in failure(read_collection, beir / "corpus.jsonl").message
    (beir / "qrels" / "test.tsv").unlink()
    assert "--qrels" in failure(read_collection, beir).fix
    (beir / "queries.jsonl").unlink()
    assert "--qrels" in failure(read_collection, beir, beir / "other").fix
    assert "--queries" in failure(read_collection, beir).fix
    (beir / "corpus.jsonl").unlink()
    assert "no corpus.jsonl" in failure(read_collection, beir).message


@pytest.mark.parametrize("name", ["qrels/test.tsv", "qrels.test.tsv", "qrels/dev.tsv", "qrels.tsv", "qrels-x.txt"])
def test_where_judgements_are_found(beir, name):
    content = (beir / "qrels" / "test.tsv").read_text()
    (beir / "qrels" / "test.tsv").unlink()
    path = written(beir / name, content)
    assert read_collection(beir).qrels_file == path


def test_of_several_files_of_judgements_test_is_taken_or_one_must_be_chosen(beir):
    content = (beir / "qrels" / "test.tsv").read_text()
    dev, train = (written(beir / "qrels" / f"{name}.tsv", content) for name in ("dev", "train"))
    assert read_collection(beir).qrels_file == beir / "qrels" / "test.tsv"
    (beir / "qrels" / "test.tsv").unlink()
    error = failure(read_collection, beir)
    assert isinstance(error, ConfigError) and f"{dev}, {train}" in error.message and "--qrels" in error.fix
    assert read_collection(beir, qrels=dev).qrels_file == dev


def test_files_may_be_named(beir, tmp_path):
    queries = written(tmp_path / "topics.tsv", "t1\tzebra\nt2\tlion\nt3\ttiger\n")
    qrels = written(tmp_path / "judged.txt", "t1 0 a 1\nt2 0 c -2\nt3 0 c 0\n")
    collection = read_collection(beir, queries, qrels)
    assert collection.queries == {"t1": "zebra", "t2": "lion", "t3": "tiger"}
    assert collection.qrels == {"t1": {"a": 1}, "t2": {"c": -2}, "t3": {"c": 0}}
    assert collection.without_relevant == 2


@pytest.mark.parametrize("text", ["q1\td\t0\n", "x\ta\t1\n", "q1\tx\t1\n"])
def test_without_a_relevant_document_there_is_nothing_to_measure(beir, text):
    qrels = written(beir / "qrels" / "test.tsv", text)
    error = failure(read_collection, beir)
    query, document, _ = text.split("\t")
    assert isinstance(error, DataError) and str(qrels) in error.message
    assert f"they judge ids like {query!r} and {document!r}, the files hold ids like 'q2' and 'a'" in error.fix


def test_ids_that_a_trec_run_cannot_hold(beir):
    collection = read_collection(beir)
    check_trec_ids(collection)
    spaced = replace(collection.documents[0], doc_id="a b")
    assert "'a b'" in failure(check_trec_ids, replace(collection, documents=(spaced,))).message
    assert "query id" in failure(check_trec_ids, replace(collection, queries={"q\u3000": ""})).message
