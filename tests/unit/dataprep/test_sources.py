import gzip
import hashlib
import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from ragray.config_data import DataConfig, DocumentSourceConfig, FaqSourceConfig
from ragray.dataprep.passages import document_files, read_passages
from ragray.dataprep.read import faq_files, parts_of, read_part, read_rows
from ragray.dataprep.remote import RemoteFile, parse_uri
from ragray.dataprep.rows import raw_table
from ragray.dataprep.sources import MAX_ROW_CHARS, CutLine, digest_of, lines_of
from ragray.errors import DataError

LINE = b'{"question": "q", "answer": "a"}\n'


def packed(content: bytes, ending: str) -> bytes:
    return gzip.compress(content) if ending == ".gz" else pa.compress(content, "zstd", asbytes=True)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_packed_files_read_like_others(tmp_path: Path, ending: str) -> None:
    for name, content in (("a.jsonl", LINE), ("b.csv", b"question,answer\nq,a\n"), ("c.html", b"<h2>q</h2>a")):
        (tmp_path / (name + ending)).write_bytes(packed(content, ending))
    files = faq_files([FaqSourceConfig(path=str(tmp_path))])
    assert [file.file.label for file in files] == ["a", "b", "c"]
    assert [[(row.question, row.answer.strip()) for row in read_rows(file)] for file in files] == [[("q", "a")]] * 3


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_frames_one_after_another_and_a_cut(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(packed(LINE, ending) * 3)
    (file,) = faq_files([FaqSourceConfig(path=str(path))])
    assert len(list(read_rows(file))) == 3
    path.write_bytes(packed(b"".join(LINE.replace(b"q", b"%d" % n) for n in range(3000)), ending)[:-20])
    with pytest.raises(DataError, match="damaged"):
        [list(read_rows(file)) for file in faq_files([FaqSourceConfig(path=str(path))])]


def test_uris_work_from_end_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "数 据"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/b.jsonl").write_bytes(LINE * 9)
    (folder / "a.csv").write_bytes(b"question,answer\nq,a\n")
    (folder / "guide.md").write_bytes(b"# Guide\ntext\n")
    base = f"file://{folder}"
    for pattern, names in {
        base: ["a.csv", "deep/b.jsonl", "guide.md"],
        f"{folder.as_uri()}/*.csv": ["a.csv"],
        f"{base}/**/*.jsonl": ["deep/b.jsonl"],
        f"{base}/d?ep/[ab].jsonl": ["deep/b.jsonl"],
        f"{base}/a.csv": ["a.csv"],
    }.items():
        files = faq_files([FaqSourceConfig(path=pattern)])
        assert [file.file.source for file in files] == [f"{base}/{name}" for name in names]
    (jsonl,) = faq_files([FaqSourceConfig(path=f"{base}/deep")])
    parts = parts_of(pickle.loads(pickle.dumps(jsonl)), 2 * len(LINE))  # noqa: S301  (made in the line itself)
    assert len(parts) > 2
    tables = [table for part in parts for table in read_part(part, 2)]
    assert pa.concat_tables(tables).equals(raw_table(read_rows(jsonl)))
    assert digest_of(jsonl.file.path) == hashlib.sha256(LINE * 9).hexdigest()
    settings = DataConfig.model_validate({"faq": [{"path": "x"}]})
    passages = read_passages(document_files([DocumentSourceConfig(path=base)]), settings)
    assert [(p.doc_id, p.title, p.text, p.source) for p in passages] == [
        ("guide#1", "Guide", "text", f"{base}/guide.md")
    ]


def test_uris_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        faq_files([FaqSourceConfig(path=f"file://{tmp_path}/none.csv")])
    with pytest.raises(DataError, match="cannot be opened"):
        faq_files([FaqSourceConfig(path="ftp://host/a.csv")])
    for uri in ("s3://key:secret@bucket/a.csv", "s3://bucket/a.csv?access_key=x&secret_key=y"):
        with pytest.raises(DataError, match="credentials") as caught:
            parse_uri(uri)
        assert "secret@" not in str(caught.value) and "=y" not in str(caught.value)
    place = parse_uri("s3://bucket/日志/a b.csv.gz?region=eu-west-1")
    assert place == RemoteFile("s3://bucket", "日志/a b.csv.gz", "region=eu-west-1")
    assert str(place) == "s3://bucket/日志/a b.csv.gz"


def test_a_line_that_is_too_long_is_cut(tmp_path: Path) -> None:
    whole, longer = "x" * MAX_ROW_CHARS, "字" * (3 * MAX_ROW_CHARS)
    (tmp_path / "a.txt").write_text(f"one\n{whole}\n{longer}\ntwo\n{whole}y", encoding="utf-8")
    lines = list(lines_of(tmp_path / "a.txt"))
    assert [len(line) for line in lines] == [4, MAX_ROW_CHARS + 1, MAX_ROW_CHARS, 4, MAX_ROW_CHARS]
    assert [isinstance(line, CutLine) for line in lines] == [False, False, True, False, True]


def test_an_unknown_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nq,a\n")
    for encoding in ("utf-9", "base64"):
        with pytest.raises(DataError, match="unknown encoding"):
            list(read_rows(faq_files([FaqSourceConfig(path=str(tmp_path / "a.csv"), encoding=encoding)])[0]))


def test_a_nul_byte_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"question,answer\nq,a\0b\nr,c\n")
    (tmp_path / "b.txt").write_bytes(b"Q: q\nA: a\0b\n")
    (tmp_path / "c.md").write_bytes(b"# q\na\0b\n")
    files = faq_files([FaqSourceConfig(path=str(tmp_path))])
    assert [[row.answer.strip() for row in read_rows(file)] for file in files] == [
        ["a\ufffdb", "c"], ["a\ufffdb"], ["a\ufffdb"],
    ]  # fmt: skip
