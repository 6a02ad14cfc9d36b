"""Base texts of the benchmarks: question-answer pairs of real files, or synthetic ones where there are none.

In: a folder with `*.jsonl.gz` files of question-answer records, or a seed. Out: (question, answer) pairs.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Pair = tuple[str, str]

HAN = re.compile("[\u4e00-\u9fff]")
_GROUP_ROWS = 65_536
_SHORTEST, _LONGEST_QUESTION, _LONGEST_ANSWER = 9, 300, 500
_SYLLABLES = [
    "ka", "lo", "mi", "tu", "ren", "sa", "vel", "dor", "pin", "gra", "sho", "ne", "bu", "ti", "ral", "mon", "fe",
    "dis", "cor", "lan",
]  # fmt: skip


def real_pairs(folder: Path) -> list[Pair]:
    """The pairs of all `*.jsonl.gz` below a folder, by file name; long ones cut, very short ones left out.

    Raises:
        SystemExit: there is no such file, or no pair in them.
    """
    pairs = [pair for path in sorted(folder.glob("*.jsonl.gz")) for pair in _pairs_of(path)]
    if not pairs:
        raise SystemExit(f"no question-answer pairs in {folder}/*.jsonl.gz: name another folder by --data, or none")
    return pairs


def _pairs_of(path: Path) -> Iterator[Pair]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            question, answer = record.get("question") or "", _first_text(record.get("answer"))
            if isinstance(question, str) and min(len(question), len(answer)) >= _SHORTEST:
                yield question[:_LONGEST_QUESTION], answer[:_LONGEST_ANSWER]


def _first_text(answer: object) -> str:
    """An answer that is a text, the first of a list, or below "text" of an object."""
    if isinstance(answer, list):
        answer = answer[0] if answer else ""
    if isinstance(answer, dict):
        answer = answer.get("text", "")
    return answer if isinstance(answer, str) else ""


def synthetic_pairs(count: int, seed: int) -> list[Pair]:
    """Pairs of invented words, about a third of them Chinese characters at random; no two are alike."""
    chance = random.Random(f"synthetic {seed}")
    words = ["".join(chance.choices(_SYLLABLES, k=chance.randint(1, 4))) for _ in range(6000)]
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]

    def sentence(shortest: int, longest: int, chinese: bool) -> str:
        length = chance.randint(shortest, longest)
        return "".join(chance.choices(characters, k=length)) if chinese else " ".join(chance.choices(words, k=length))

    pairs = []
    for _ in range(count):
        chinese = chance.random() < 0.35
        ending = "？" if chinese else "?"
        pairs.append((sentence(9, 20, chinese) + ending, sentence(60, 200, chinese)))
    return pairs


def base_pairs(folder: Path | None, seed: int) -> list[Pair]:
    """Real pairs where a folder is given, else 20,000 synthetic ones."""
    return real_pairs(folder) if folder else synthetic_pairs(20_000, seed)


def read_pairs(path: Path, limit: int | None = None) -> list[Pair]:
    """The (question, answer) pairs of a Parquet or JSONL file, at most `limit`."""
    if path.suffix == ".parquet":
        table = pq.read_table(path, columns=["question", "answer"]).slice(0, limit)
        return list(zip(table["question"].to_pylist(), table["answer"].to_pylist(), strict=True))
    pairs = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            pairs.append((record["question"], record["answer"]))
            if len(pairs) == limit:
                break
    return pairs


def joined(pairs: list[Pair]) -> list[str]:
    """Each pair as one text of two parts: the question, a line break, the answer."""
    return [f"{question}\n{answer}" for question, answer in pairs]


def write_rows(rows: Iterable[Mapping[str, object]], path: Path) -> None:
    """Write rows as Parquet or JSONL, by the ending of the path; as they come, so that memory does not grow.

    Raises:
        ValueError: there are no rows for a Parquet file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        groups = (pa.Table.from_pylist(group) for group in _groups(rows))
        write_tables(groups, path)
        return
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_tables(tables: Iterable[pa.Table], path: Path) -> int:
    """Write tables with the same columns as one Parquet file; how many rows they are.

    Raises:
        ValueError: there is no table.
    """
    tables = iter(tables)
    if (first := next(tables, None)) is None:
        raise ValueError(f"{path}: no rows to write")
    rows = 0
    with pq.ParquetWriter(path, first.schema, compression="zstd") as file:
        for table in chain([first], tables):
            file.write_table(table)
            rows += len(table)
    return rows


def read_tables(path: Path, limit: int | None = None) -> Iterator[pa.Table]:
    """The columns question and answer of a Parquet file, at most `limit` rows, a part at a time."""
    left = limit
    for batch in pq.ParquetFile(path).iter_batches(_GROUP_ROWS, columns=["question", "answer"]):
        table = pa.Table.from_batches([batch]).slice(0, left)
        if left is not None:
            left -= len(table)
        yield table
        if left == 0:
            return


def _groups(rows: Iterable[Mapping[str, object]]) -> Iterator[list[Mapping[str, object]]]:
    rows = iter(rows)
    while group := list(islice(rows, _GROUP_ROWS)):
        yield group
