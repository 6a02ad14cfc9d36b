"""1,000 damaged inputs: nothing but an error that names the file, and no row without a reason or a number."""

import hashlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from damage import damaged_inputs

from ragray.config_data import CleanConfig, DataConfig, DocumentSourceConfig, FaqSourceConfig
from ragray.dataprep.clean import clean_row, clean_table
from ragray.dataprep.passages import document_files, read_passages
from ragray.dataprep.read import faq_files, parts_of, read_part, read_rows, read_tables
from ragray.dataprep.rows import RAW_SCHEMA, RawRow, raw_table
from ragray.errors import RagrayError

SEED = 3
GROUPS = 10


def outcome(path: Path) -> list[RawRow] | str:
    try:
        (file,) = faq_files([FaqSourceConfig(path=str(path))])
        return list(read_rows(file))
    except RagrayError as error:
        assert path.name in str(error) and error.fix
        return "error"


@pytest.mark.parametrize("group", range(GROUPS))
def test_accounting_holds(tmp_path: Path, group: int) -> None:
    seen: Counter[str] = Counter()
    for n, damaged in enumerate(damaged_inputs(1000, SEED)):
        if n % GROUPS != group:
            continue
        path = tmp_path / damaged.name
        path.write_bytes(damaged.content)
        rows = outcome(path)
        seen["error" if isinstance(rows, str) else "read"] += 1
        if isinstance(rows, str):
            continue
        assert [row.ordinal for row in rows] == list(range(1, len(rows) + 1)), damaged.story
        lines = [row.line for row in rows]
        assert lines == sorted(lines) or path.suffix == ".html", damaged.story
        for row in rows:
            assert bool(row.reason) == bool(row.detail) and "\0" not in row.text, damaged.story
            assert not (row.reason and (row.question or row.answer)), damaged.story
        (file,) = faq_files([FaqSourceConfig(path=str(path))])
        fast = list(read_tables(file, 7))
        assert all(0 < len(table) <= 7 and table.schema == RAW_SCHEMA for table in fast)
        assert pa.concat_tables([RAW_SCHEMA.empty_table(), *fast]).equals(raw_table(rows)), damaged.story
        parts = [table for part in parts_of(file, 300) for table in read_part(part, 1000)]
        assert pa.concat_tables([RAW_SCHEMA.empty_table(), *parts]).equals(raw_table(rows)), damaged.story
        cleaned = clean_table(raw_table(rows), file.file, CleanConfig()).table
        assert cleaned.column("line").to_pylist() == lines, damaged.story
        for row, found in zip(rows, cleaned.to_pylist(), strict=True):
            outcome_of_row = clean_row(row, file.file, CleanConfig())
            assert found["reason"] == getattr(outcome_of_row, "reason", ""), damaged.story
            assert bool(found["reason"]) == bool(found["detail"]) == (not found["question"]), damaged.story
            assert found["question"] == getattr(outcome_of_row, "question", ""), damaged.story
    assert seen["read"] > 50 and seen["error"] > 5  # the damage is neither nothing nor everything


def test_documents_survive_too(tmp_path: Path) -> None:
    settings = DataConfig.model_validate({"faq": [{"path": "x"}], "passage_chars": 200, "passage_overlap_chars": 20})
    for damaged in damaged_inputs(300, SEED + 1):
        if not damaged.name.removesuffix(".gz").removesuffix(".zst").endswith((".md", ".txt", ".html")):
            continue
        path = tmp_path / damaged.name
        path.write_bytes(damaged.content)
        try:
            passages = read_passages(document_files([DocumentSourceConfig(path=str(path))]), settings)
        except RagrayError as error:
            assert path.name in str(error)
        else:
            assert passages and all(passage.text.strip() for passage in passages)


def test_the_same_seed_gives_the_same_inputs() -> None:
    first, again, other = (
        [hashlib.sha256(d.content).hexdigest() for d in damaged_inputs(70, seed)] for seed in (SEED, SEED, SEED + 1)
    )
    assert first == again and first != other
