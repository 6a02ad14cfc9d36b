"""The fast ways of reading give the rows of the slow one, for whole files and for parts."""

import csv
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragray.config_data import FaqSourceConfig
from ragray.dataprep.read import FaqFile, FilePart, faq_files, parts_of, read_part, read_rows, read_tables
from ragray.dataprep.rows import RAW_SCHEMA, RawRow, raw_table
from ragray.dataprep.sources import MAX_ROW_CHARS

MAPPED = {"id": "id", "lang": "lang", "group": "thread"}
ODD_LINES = [
    "", "   ", "\u3000", "{", "[1]", "null", '{"question": "q"}', '{"question": null, "answer": "a", "id": "x"}',
    '{"question": "a", "answer": "b", "id": "x", "question": "c"}', '{"question": NaN, "answer": "b", "id": "x"}',
    '{"question": "a", "answer": -Infinity, "id": "x"}', '{"question": "a", "answer": "b", "id": 1e400}',
    '{"question": "a", "answer": {"x": 1}, "id": "x"}', '{"question": "a", "answer": ["x"], "id": "x"}',
    '{"question": "\\ud800", "answer": "b", "id": "x"}', '{"question": "a\\u0000", "answer": "b", "id": "x"}',
    '{"question": "a", "answer": "b", "id": "  "}', '{"question": "a", "answer": "b", "id": " \\u3000x "}',
    '{"question": "a", "answer": "b", "id": true}', '{"question": "a", "answer": "b", "id": 12345678901234567890123}',
    '{"question": 1, "answer": 2.50, "id": -0}', '{"question": "a", "answer": "b", "id": "x"} {"question": "c"}',
    '{"question": "a", "answer": "b", "id": "x"}}', '{"question": "a", "answer": "b", "id": "x",}', "{}",
    '{"question": "a", "answer": "b", "id": "x", "n": ' + "9" * 5000 + "}",
    '{"question": "a", "answer": "b", "id": "x", "n": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"question": "a",\n"answer": "b", "id": "x"}', '\ufeff{"question": "a", "answer": "b", "id": "x"}',
    '{"question": "a", "answer": "b", "id": "x"}\r', '{"question": "a\tb", "answer": "b", "id": "x"}',
    '{"question": "a", "answer": "\ufffd", "id": "x", "lang": null, "thread": 7}',
    '{"question": "a/*', "\x00", "}", "{}}",
    '{"question": "a", "answer": "b", "id": "x"} {"question": "c", "answer": "d", "id": "y"}',
    '{"question": "a", "answer": "b", "id": "x", "n":\n{}}\n{"question": "a", "answer": "b", "id": "x"} '
    '{"question": "c", "answer": "d", "id": "y"}',
]  # fmt: skip


def opened(path: Path, **source: Any) -> FaqFile:
    (file,) = faq_files([FaqSourceConfig.model_validate({"path": str(path), **source})])
    return file


def joined(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([RAW_SCHEMA.empty_table(), *tables]).combine_chunks()


def assert_all_ways_agree(file: FaqFile, part_bytes: int) -> list[RawRow]:
    rows = list(read_rows(file))
    expected = raw_table(rows).combine_chunks()
    tables = list(read_tables(file, 700))
    assert [len(table) for table in tables[:-1]] == [700] * (len(tables) - 1)
    assert joined(tables).equals(expected)
    parts = parts_of(file, part_bytes)
    assert joined([table for part in parts for table in read_part(part, 999)]).equals(expected)
    again = [table for part in reversed(parts) for table in read_part(part, 50)]
    assert joined(again).sort_by("ordinal").equals(expected)  # each part knows its numbers
    return rows


def jsonl(rng: random.Random, count: int, odd: float) -> str:
    lines = []
    for n in range(count):
        record = {
            "question": f"问题 {n}?",
            "answer": "A 🙂" * rng.randint(1, 30),
            "id": n,
            "lang": "zh",
            "thread": n % 9,
        }
        sound = json.dumps(record | {"more": [{"x": n}]}, ensure_ascii=rng.random() < 0.5)
        lines.append(rng.choice(ODD_LINES) if rng.random() < odd else sound)
    return "\n".join(lines)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16-le"])
@pytest.mark.parametrize("odd", [0.0, 0.001, 0.2])
def test_jsonl(tmp_path: Path, encoding: str, odd: float) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(random.Random(5), 4000, odd).encode(encoding, "replace"))
    rows = assert_all_ways_agree(opened(path, columns=MAPPED, encoding=encoding), 60_000)
    assert sum(not row.reason for row in rows) >= 3000
    can_be_cut = encoding != "utf-16-le"  # its line break is two bytes, which other characters hold too
    assert (len(parts_of(opened(path, columns=MAPPED, encoding=encoding), 60_000)) > 5) == can_be_cut


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(ODD_LINES).map(str.encode), st.binary(max_size=30)), max_size=6))
def test_any_lines_among_good_ones(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    good = [b'{"question": "q", "answer": "a", "id": "i"}'] * 3
    path.write_bytes(b"\n".join([*good, *lines, *good]))
    assert_all_ways_agree(opened(path, columns={"id": "id"}, encoding="utf-8"), 50)


@pytest.mark.parametrize("number", range(len(ODD_LINES)))
def test_each_odd_line_alone_in_a_chunk_that_is_read_fast(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.jsonl"
    good = '{"question": "q", "answer": "a", "id": "i"}\n'
    path.write_text(good * 3 + ODD_LINES[number] + "\n" + good * 2, encoding="utf-8")
    file = opened(path, columns={"id": "id"}, encoding="utf-8")
    rows = assert_all_ways_agree(file, 2 * len(good))
    rest = FilePart(file, start=len(good), first_ordinal=2, first_line=2, encoding="utf-8")
    assert joined(list(read_part(rest, 100))).equals(raw_table(rows[1:]).combine_chunks())


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize(
    "line",
    [
        "",
        "  ",
        "\t",
        "|",
        "||",
        '"open|x',
        "a",
        "a|b|c|d",
        'x"y|z|w',
        "\x00|b|c",
        '"a"b|c|d',
        '"a|b\n|c|d',
        "é|\ufffd|",
    ],
)
def test_each_odd_line_of_csv(tmp_path: Path, delimiter: str, line: str) -> None:
    path = tmp_path / ("a.csv" if delimiter == "," else "a.tsv")
    lines = ["id|question|answer", 'i|"q\nr"|a', line, "j|s|b", 'k|"t"|c']
    path.write_text("\n".join(lines).replace("|", delimiter) + "\n", encoding="utf-8")
    assert_all_ways_agree(opened(path, columns={"id": "id"}, encoding="utf-8"), 1)
    assert_all_ways_agree(opened(path, encoding="utf-8"), 1)


def test_nested_values_have_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    entry = {"question": "q", "answers": [{"text": "first"}, {"text": "second"}]}
    path.write_text(json.dumps(entry) + '\n{"question": "r", "answers": []}\n')
    rows = list(read_rows(opened(path, columns={"answer": "answers.0.text"})))
    assert [(row.answer, row.detail) for row in rows] == [("first", ""), ("", "has no answers.0.text")]
    pq.write_table(pa.Table.from_pylist([entry]), tmp_path / "a.parquet")
    rows = assert_all_ways_agree(opened(tmp_path / "a.parquet", columns={"answer": "answers.1.text"}), 1)
    assert [row.answer for row in rows] == ["second"]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_csv(tmp_path: Path, name: str, delimiter: str) -> None:
    rng = random.Random(6)
    odd = ["", "  ", "\t", '"open,x', "a,b", 'x"y,z', "\x00,a,b,c,d", '"a"b,c', f'"{"l" * 50}', "é,\ufffd,3,4,5"]
    with (tmp_path / name).open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, delimiter=delimiter)
        writer.writerow(["id", "question", "answer", "lang", "thread"])
        for n in range(30_000):
            if n > 9000 and rng.random() < 0.0003:
                out.write(rng.choice(odd).replace(",", delimiter) + rng.choice(("\n", "\r\n")))
            writer.writerow([n, f'问 "{n}"?', "two\nlines" if n % 7 == 0 else 'a, "b"', " en ", n % 5])
    rows = assert_all_ways_agree(opened(tmp_path / name, columns=MAPPED), 1)
    assert sum(not row.reason for row in rows) >= 29_000 and any(row.reason for row in rows)


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "question": pa.array([f"q {n}" if n % 50 else None for n in range(9000)], pa.large_string()),
            "answer": pa.array(["x", "y", "z"] * 3000).dictionary_encode(),
            "id": pa.array(range(9000), pa.int32()),
            "lang": pa.nulls(9000),
            "thread": pa.array([n % 3 for n in range(9000)], pa.uint8()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1000)
    file = opened(tmp_path / "a.parquet", columns=MAPPED)
    assert len(parts_of(file, 1)) == 9
    rows = assert_all_ways_agree(file, 1)
    assert rows[1] == RawRow(2, 2, "q 1", "y", "1", group="1") and rows[50].question == ""


def test_parquet_values_that_are_no_text(tmp_path: Path) -> None:
    answers: dict[str, pa.Array] = {
        "float": pa.array([1.5, float("nan"), float("inf"), None]),
        "list": pa.array([["a"], [], None, ["b"]]),
        "binary": pa.array([b"a", b"\xff", None, b""]),
        "bool": pa.array([True, False, None, True]),
        "text": pa.StringArray.from_buffers(
            4, pa.py_buffer(pa.array([0, 2, 4, 7, 7], pa.int32()).buffers()[1]), pa.py_buffer(b"ok\xff\xfea\0b")
        ),
        "long": pa.array(["x" * (MAX_ROW_CHARS + 1), "y", None, ""]),
    }
    reasons = {}
    for name, answer in answers.items():
        pq.write_table(pa.table({"question": ["q"] * 4, "answer": answer}), tmp_path / f"{name}.parquet")
        reasons[name] = [row.reason for row in assert_all_ways_agree(opened(tmp_path / f"{name}.parquet"), 1)]
    assert reasons == {
        "float": ["", "not_text", "not_text", ""],
        "list": ["not_text", "not_text", "", "not_text"],
        "binary": ["not_text", "not_text", "", "not_text"],
        "bool": ["not_text", "not_text", "", "not_text"],
        "text": ["", "", "", ""],  # U+FFFD is for the cleaning step to find
        "long": ["too_large", "", "", ""],
    }


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_line_of_50_mb_is_one_rejected_row(tmp_path: Path, name: str, encoding: str) -> None:
    rows = {
        "a.jsonl": ('{"question": "q", "answer": "a"}\n', '{"question": "q", "answer": "%s"}\n'),
        "a.csv": ("q,a\n", "q,%s\n"),
        "a.txt": ("Q: q\nA: a\n", "Q: q\nA: %s\n"),
    }
    good, long = rows[name]
    text = ("question,answer\n" if name == "a.csv" else "") + good + long % ("x" * (50 << 20)) + good
    (tmp_path / name).write_bytes(text.encode(encoding))
    file = opened(tmp_path / name, encoding=encoding)
    del text
    tracemalloc.start()
    found = [row for table in read_tables(file, 100) for row in table.to_pylist()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(row["ordinal"], row["reason"]) for row in found] == [(1, ""), (2, "too_large"), (3, "")]
    assert [row["line"] for row in found] == {"a.jsonl": [1, 2, 3], "a.csv": [2, 3, 4], "a.txt": [1, 3, 5]}[name]
    assert peak < 40 << 20
