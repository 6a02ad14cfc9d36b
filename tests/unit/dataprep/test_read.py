import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.config_data import ColumnsConfig, FaqSourceConfig
from ragray.dataprep.read import faq_files, read_rows
from ragray.dataprep.rows import RawRow, raw_table
from ragray.errors import DataError


def rows(path: Path, **settings: object) -> list[RawRow]:
    (file,) = faq_files([FaqSourceConfig.model_validate({"path": str(path), **settings})])
    return list(read_rows(file))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pairs(found: list[RawRow]) -> list[tuple[int, str, str]]:
    return [(row.line, row.question.strip(), row.answer.strip()) for row in found if not row.reason]


def test_jsonl_with_broken_lines(tmp_path: Path) -> None:
    text = '{"question": "q1", "answer": 5}\n\n{"question": "q2"\n[1]\n{"question": "q3"}\n'
    text += '{"question": ["x"], "answer": ""}\n'
    found = rows(write(tmp_path / "a.jsonl", text))
    assert [(row.ordinal, row.line, row.reason) for row in found] == [
        (1, 1, ""), (2, 3, "broken_line"), (3, 4, "bad_row"), (4, 5, "bad_row"), (5, 6, "not_text"),
    ]  # fmt: skip
    assert pairs(found) == [(1, "q1", "5")]


def test_json_list_or_its_holder(tmp_path: Path) -> None:
    entries = [{"question": "q", "answer": "a"}]
    assert pairs(rows(write(tmp_path / "a.json", json.dumps(entries)))) == [(1, "q", "a")]
    assert pairs(rows(write(tmp_path / "b.json", json.dumps({"v": 1, "data": entries})))) == [(1, "q", "a")]
    with pytest.raises(DataError, match="not valid JSON"):
        rows(write(tmp_path / "c.json", "[{]"))


def test_csv_lines_quotes_and_ragged_rows(tmp_path: Path) -> None:
    text = 'question,answer\nq1,"a\nb"\nq2,a2,extra\n5" disk,yes\nq4,"open\nq5,a5\n'
    found = rows(write(tmp_path / "a.csv", text))
    assert [(row.line, row.reason) for row in found] == [(2, ""), (4, "bad_row"), (5, ""), (6, "broken_line"), (7, "")]
    assert pairs(found) == [(2, "q1", "a\nb"), (5, '5" disk', "yes"), (7, "q5", "a5")]


def test_csv_with_other_line_separators_in_a_field(tmp_path: Path) -> None:
    found = rows(write(tmp_path / "a.csv", 'question,answer\nq\u2028x,"a\x0cb\nc"\n'))
    assert pairs(found) == [(2, "q\u2028x", "a\x0cb\nc")]


def test_tsv_gz_and_parquet(tmp_path: Path) -> None:
    packed = tmp_path / "a.tsv.gz"
    packed.write_bytes(gzip.compress(b"question\tanswer\nq\ta, b\n"))
    assert pairs(rows(packed)) == [(2, "q", "a, b")]
    pq.write_table(pa.table({"question": ["q", None], "answer": ["a", "b"]}), tmp_path / "a.parquet")
    assert [(r.line, r.question) for r in rows(tmp_path / "a.parquet")] == [(1, "q"), (2, "")]


def test_qa_text_with_both_kinds_of_marks(tmp_path: Path) -> None:
    text = "preface\nmore\n\nQ: one?\nA: first\nsecond\n\n问：二？\n答：对。\nQ: no answer\nQ：three\nA：3\n"
    found = rows(write(tmp_path / "a.txt", text))
    assert [(row.line, row.reason) for row in found] == [(1, "broken_line"), (4, ""), (8, ""), (10, ""), (11, "")]
    assert pairs(found) == [
        (4, "one?", "first\nsecond"),
        (8, "二？", "对。"),
        (10, "no answer", ""),
        (11, "three", "3"),
    ]


def test_markdown_headings_are_questions(tmp_path: Path) -> None:
    text = "# FAQ\n\nintro\n\n## Part\n\n### How?\n\n```sh\n# no heading\n```\n\n### 为何？ ##\n因为。\n### Empty?\n"
    found = rows(write(tmp_path / "a.md", text))
    assert [(row.line, row.reason) for row in found] == [(1, "not_a_question"), (7, ""), (13, ""), (15, "")]
    assert pairs(found)[0] == (7, "How?", "```sh\n# no heading\n```")
    assert pairs(found)[1:] == [(13, "为何？", "因为。"), (15, "Empty?", "")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_encoding_is_found(tmp_path: Path, encoding: str) -> None:
    found = rows(write(tmp_path / "a.csv", "question,answer\n怎样安装？,用命令安装它。\n".encode(encoding)))
    assert pairs(found) == [(2, "怎样安装？", "用命令安装它。")]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_one_damaged_line_stays_one(tmp_path: Path, encoding: str) -> None:
    good = [f'{{"question": "第{n}个问题", "answer": "第{n}个答案"}}\n'.encode(encoding) for n in range(4)]
    good[1] = good[1].replace("第1个答案".encode(encoding), b"\xff\xfe\x80")
    found = rows(write(tmp_path / "a.jsonl", b"".join(good)))
    assert ["\ufffd" in row.answer for row in found] == [False, True, False, False]
    assert found[2].question == "第2个问题"


def test_latin_accents_are_not_taken_for_chinese(tmp_path: Path) -> None:
    text = "question,answer\nCafé fermé à midi ?,Où est la forêt près du château élevé\n"
    assert "Café" in rows(write(tmp_path / "a.csv", (text * 1).encode("cp1252")))[0].question


def test_wrong_column_names_the_real_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "questions,reply\nq,a\n")
    with pytest.raises(DataError) as caught:
        rows(path)
    assert "'questions', 'reply'" in str(caught.value) and "did you mean questions?" in str(caught.value)
    assert "data.faq.0.columns.question=questions" in caught.value.fix
    with pytest.raises(DataError, match="no column 'nr'"):
        rows(path, columns=ColumnsConfig(question="questions", answer="reply", id="nr").model_dump())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "no such file"),
        ("empty.csv", b"", "is empty"),
        ("blank.csv", b" \n\n", "is empty"),
        ("a.csv.gz", b"not gzip", "damaged gzip"),
        ("a.xyz", b"data", "does not tell the format"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        rows(tmp_path / name)
    assert caught.value.fix


def test_folder_is_sorted_and_labels_are_unique(tmp_path: Path) -> None:
    for name in ("b/faq.csv", "a/faq.csv", "a/other.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "question,answer\nq,a\n")
    write(tmp_path / "a/notes.png", "x")
    files = faq_files([FaqSourceConfig(path=str(tmp_path))])
    assert [file.file.label for file in files] == ["a/faq.csv", "other", "b/faq.csv"]
    with pytest.raises(DataError, match=r"named by data.faq.0 and by data.faq.1"):
        faq_files([FaqSourceConfig(path=str(tmp_path)), FaqSourceConfig(path=str(tmp_path / "a/*.csv"))])
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="no file in this folder"):
        faq_files([FaqSourceConfig(path=str(tmp_path / "void"))])


def test_raw_rows_survive_arrow() -> None:
    listed = [RawRow.readable(3, "q\ud800", "a"), RawRow.unreadable(4, "bad_row", "d", "\ufffd")]
    assert listed[0].question == "q\ufffd" and listed[1].reason == "bad_encoding"
    assert [RawRow(**row) for row in raw_table(listed).to_pylist()] == listed


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=20), st.just(b'{"question": "q", "answer": "a"}'), st.just(b'"'))))
def test_every_line_is_a_row_whatever_its_bytes(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b"").replace(b"\r", b"") for line in lines]
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_bytes(b'{"question": "q", "answer": "a"}\n' + b"\n".join(lines))
    expected = 1 + sum(bool(line.decode("utf-8", "replace").strip()) for line in lines)
    (file,) = faq_files([FaqSourceConfig(path=str(path), encoding="utf-8")])
    found = list(read_rows(file))
    assert len(found) == expected
    assert [row.ordinal for row in found] == list(range(1, expected + 1))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["q,a", '"q,a', 'q,"a', '"q","a"', "q", '"', 'a"b,c', '"q\n2",a', ""]), max_size=8))
def test_a_csv_never_loses_a_line(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.csv"
    path.write_text("question,answer\n" + "\n".join(lines))
    (file,) = faq_files([FaqSourceConfig(path=str(path))])
    found = list(read_rows(file))
    starts = [row.line for row in found]
    assert starts == sorted(set(starts))
    covered = set(starts)
    for row in found:
        covered |= set(range(row.line, row.line + f"{row.question}{row.answer}".count("\n") + 1))
    text = path.read_text().split("\n")
    assert all(n in covered or not line.strip() for n, line in enumerate(text[1:], 2))
